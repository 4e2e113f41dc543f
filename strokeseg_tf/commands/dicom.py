"""`strokeseg-tf dicom`: DICOM -> studies."""

from strokeseg_tf.console import print_json, print_table, progress, remark

HELP = "convert DICOM to a folder a study with ADC and DWI as NIfTI, without patient data"
EXAMPLES = """\
  strokeseg-tf dicom export/ studies/
  strokeseg-tf dicom export/ studies/ --layout bids --json
"""


def add_arguments(parser):
    """Declare the arguments."""
    parser.add_argument("source", metavar="SRC", help="folder of DICOM files, or one file")
    parser.add_argument("out", metavar="OUT", help="folder to write")
    parser.add_argument(
        "--layout", default="foscal", metavar="L", help="foscal or bids (default: foscal)"
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=300,
        metavar="S",
        help="seconds that dcm2niix may take for a series (default: 300)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")


def run(arguments):
    """Convert, and print what each study is made of."""
    import dataclasses

    from tfrecord_tools.dicom.conversion import convert_dicom, tell_failed
    from tfrecord_tools.errors import InputError

    with progress("converting") as on_step:
        report = convert_dicom(
            arguments.source,
            arguments.out,
            layout=arguments.layout,
            overwrite=arguments.overwrite,
            timeout_s=arguments.timeout,
            on_step=on_step,
        )
    if arguments.json:
        print_json({"out": arguments.out} | dataclasses.asdict(report))
    else:
        for study in report.studies:
            for text in study.remarks:
                remark(f"{study.study}: {text}")
        for text in report.remarks:
            remark(text)
        rows = [row_of(study) for study in report.studies]
        print_table(["study", "patient", "DWI", "ADC", "series"], rows)
        print(arguments.out)
    if report.failed:
        count = len(report.failed)
        raise InputError(
            f"{count} of {count + len(report.studies)} studies have no usable DWI or ADC and are "
            f"left out: {tell_failed(report.failed)}"
        )


def row_of(study):
    """A study in the table."""
    dwi, adc = (study.images.get(modality, {}) for modality in ("dwi", "adc"))
    series = {n for facts in study.images.values() for n in facts["SeriesNumbers"]}
    return [
        study.study,
        study.patient,
        f"b = {dwi['DiffusionBValue']}" if dwi else "none",
        adc.get("ADC", "none"),
        " ".join(map(str, sorted(series))),
    ]
