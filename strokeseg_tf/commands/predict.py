"""`strokeseg-tf predict`: masks on each image's own grid."""

import argparse
import contextlib

from strokeseg_tf.console import print_table, progress, remark
from strokeseg_tf.interruption import stopped_alike
from strokeseg_tf.serving.connection import (
    DEADLINE_S,
    MAX_MESSAGE_MB,
    TOKEN_VARIABLE,
    Connection,
)
from strokeseg_tf.serving.endpoint import is_address
from tfrecord_tools.errors import InputError

HELP = "segment studies: a mask for each modality on its image's own grid"
EXAMPLES = """\
  strokeseg-tf predict runs/dual_v1 cohort/ -o predictions/
  strokeseg-tf predict runs/dual_v1 cohort/study-17 cohort/study-18 -o predictions/
  strokeseg-tf predict served/strokeseg --adc ADC.nii.gz --dwi DWI.nii.gz -o predictions/
  strokeseg-tf predict runs/dual_v1/model.keras studies.csv -o predictions/ --probabilities
  strokeseg-tf predict runs/dual_v1 scanner_export/ -o predictions/ --dicom-seg --resume
  strokeseg-tf predict runs/fold0 cohort/ -o predictions/ --uncertainty --ensemble runs/fold[1-4]
  strokeseg-tf predict grpc://HOST:8500/strokeseg cohort/ -o predictions/
  strokeseg-tf predict https://HOST/v1/models/strokeseg/versions/3 cohort/ -o predictions/
"""


def add_arguments(parser):
    """Declare the arguments."""
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="run folder, .keras file, SavedModel, or the address of a model that TensorFlow "
        "Serving serves: grpc://HOST:8500/NAME, http://HOST:8501/v1/models/NAME; grpcs and https "
        "for TLS; /versions/N at the end for a version; several servers as HOST:PORT,HOST:PORT",
    )
    parser.add_argument(
        "studies",
        metavar="STUDY",
        nargs="*",
        help="study folder, cohort folder, CSV table, or folder of DICOM (which is converted as "
        "strokeseg-tf dicom does, in a place that vanishes)",
    )
    parser.add_argument("--adc", metavar="FILE", help="ADC image of one study")
    parser.add_argument("--dwi", metavar="FILE", help="DWI image of one study")
    parser.add_argument("-o", "--out", metavar="OUT", required=True, help="folder to write")
    parser.add_argument(
        "--threshold",
        type=float,
        help="probability above which a voxel is lesion (default: what the run chose)",
    )
    parser.add_argument(
        "--min-lesion-ml",
        type=float,
        default=0.0,
        metavar="ML",
        help="leave smaller lesions out of the masks (default: 0)",
    )
    parser.add_argument("--probabilities", action="store_true", help="write probabilities too")
    parser.add_argument(
        "--figures",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="write a picture of all slices with contours (default: yes)",
    )
    parser.add_argument(
        "--dicom-seg",
        action="store_true",
        help="write DICOM Segmentation objects for a PACS too, of studies from DICOM; they name "
        "the patient and the study as their source does",
    )
    several = parser.add_argument_group("several predictions made one")
    several.add_argument(
        "--ensemble",
        metavar="MODEL",
        nargs="+",
        action="extend",
        default=[],
        help="more models beside MODEL, each as that one; all words up to the next option, so put "
        "it after the studies. The result is the mean probability",
    )
    several.add_argument(
        "--vote", action="store_true", help="mark what more than half of the models mark"
    )
    several.add_argument(
        "--tta",
        action="store_true",
        help="predict each study mirrored too (left-right; front-back where the model learnt so)",
    )
    several.add_argument(
        "--uncertainty",
        action="store_true",
        help="write the standard deviation of the probabilities over models and mirrors",
    )
    computing = parser.add_argument_group("how the network of a run is computed")
    computing.add_argument(
        "--engine",
        default="auto",
        help="tensorflow, openvino, or auto: OpenVINO where it is installed and there is no GPU "
        "(default: auto)",
    )
    computing.add_argument(
        "--precision",
        default="auto",
        help="float32, bfloat16, or auto: bfloat16 with OpenVINO on CPUs that multiply it, which "
        "turns a voxel here and there at the edge of a lesion (default: auto)",
    )
    parser.add_argument(
        "--layout",
        default="auto",
        help="auto, isles22, soop, apis, foscal or bids (default: auto)",
    )
    parser.add_argument(
        "--parallel",
        type=int,
        metavar="N",
        help="studies at a time (default: 1, or 2 for each server)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")
    parser.add_argument(
        "--resume", action="store_true", help="go on with OUT: what is finished there stays"
    )
    server = parser.add_argument_group(
        "a model on a server", f"A token for it comes by the environment variable {TOKEN_VARIABLE}."
    )
    server.add_argument(
        "--deadline",
        type=float,
        metavar="SECONDS",
        help=f"time for one study, retries included (default: {DEADLINE_S:g})",
    )
    server.add_argument(
        "--max-message-mb",
        type=float,
        metavar="MB",
        help=f"larger studies are sent in parts (default: {MAX_MESSAGE_MB:g})",
    )
    server.add_argument("--ca-file", metavar="PEM", help="authority to trust, for grpcs and https")


def run(arguments):
    """Predict every study, and print volumes."""
    check(arguments)
    with stopped_alike(), open_studies(arguments) as sources:
        if arguments.dicom_seg:
            check_from_dicom(sources)
        for text in sources.remarks:
            remark(text)
        predictor = load(arguments)
        result = predict(arguments, predictor, sources)
    print_result(result, arguments)
    for text in tell_alarms_of(result):
        remark(f"look at this: {text}")
    failed = result["failed"]
    if failed:
        from strokeseg_tf.cohort import summarise_failures

        raise InputError(
            f"{len(failed)} of {len(failed) + len(result['studies'])} studies failed, the others "
            f"are in {arguments.out}: {summarise_failures(failed)}"
        )


def check(arguments):
    """Refuse options that make no sense, before anything takes time."""
    computing_of(arguments)
    if arguments.threshold is not None and not 0 < arguments.threshold < 1:
        raise InputError(f"--threshold must lie between 0 and 1, received {arguments.threshold}")
    if arguments.parallel is not None and arguments.parallel < 1:
        raise InputError(f"--parallel must be at least 1, received {arguments.parallel}")
    if (arguments.adc or arguments.dwi) and arguments.studies:
        raise InputError("give either STUDY folders or --adc and --dwi, not both")
    if not (arguments.adc or arguments.dwi or arguments.studies):
        raise InputError("no study to segment; name a STUDY folder, or --adc and --dwi files")
    if arguments.vote and len(arguments.ensemble) < 2:
        raise InputError("--vote needs three models; name more of them with --ensemble")
    if arguments.uncertainty and not (arguments.ensemble or arguments.tta):
        raise InputError(
            "--uncertainty is the spread of several predictions; add models with --ensemble, or "
            "--tta"
        )


@contextlib.contextmanager
def open_studies(arguments):
    """`strokeseg_tf.prediction.sources.Sources` of what was named."""
    from strokeseg_tf.prediction.sources import Sources, open_sources

    if not arguments.studies:
        from tfrecord_tools.layouts import pair_of_files

        yield Sources((pair_of_files(arguments.adc, arguments.dwi),), {}, (), {})
        return
    with contextlib.ExitStack() as stack:
        with progress("converting DICOM") as on_step:
            opened = open_sources(arguments.studies, arguments.layout, on_step)
            sources = stack.enter_context(opened)
        yield sources


def load(arguments):
    """One predictor of all models."""
    from strokeseg_tf.loading import load_predictors

    return load_predictors(
        [arguments.model, *arguments.ensemble],
        vote=arguments.vote,
        mirrored=arguments.tta,
        threshold=arguments.threshold,
        connection=connection_of(arguments),
        computing=computing_of(arguments),
    )


def predict(arguments, predictor, sources):
    """Predict the studies; the content of `predictions.json`."""
    from strokeseg_tf.cohort import predict_cohort

    models = [arguments.model, *arguments.ensemble]
    with ending(predictor), progress("segmenting") as on_study:
        return predict_cohort(
            predictor,
            sources.files,
            arguments.out,
            model=" + ".join(models),
            settings={"vote": arguments.vote, "tta": arguments.tta},
            parallel=arguments.parallel or predictor.parallel,
            probabilities=arguments.probabilities,
            uncertainty=arguments.uncertainty,
            figures=arguments.figures,
            min_lesion_ml=arguments.min_lesion_ml,
            overwrite=arguments.overwrite,
            resume=arguments.resume,
            failed=sources.failed,
            tell=sources.tell,
            write_more=segmentation_writer(arguments, sources),
            on_study=on_study,
        )


def computing_of(arguments):
    """`strokeseg_tf.prediction.engines.Computing` as asked for."""
    from strokeseg_tf.prediction.engines import Computing

    return Computing(arguments.engine, arguments.precision)


def connection_of(arguments):
    """`Connection` where the model has an address or an option for one is given, else None."""
    options = {
        "deadline_s": arguments.deadline,
        "max_message_mb": arguments.max_message_mb,
        "ca_file": arguments.ca_file,
    }
    given = {name: value for name, value in options.items() if value is not None}
    if not given and not any(map(is_address, [arguments.model, *arguments.ensemble])):
        return None
    return Connection(**given)


def ending(predictor):
    """Ends the connections of a predictor that has some."""
    has_some = hasattr(predictor, "close")
    return contextlib.closing(predictor) if has_some else contextlib.nullcontext()


def segmentation_writer(arguments, sources):
    """What writes the DICOM Segmentation objects of a study; None where they are not wanted."""
    if not arguments.dicom_seg:
        return None
    from strokeseg_tf.prediction.dicom_seg import write_segmentations
    from tfrecord_tools.names import file_name

    def write(files, predictions, folder):
        series = sources.series[files.study]
        write_segmentations(predictions, series, folder, file_name(files.study))

    return write


def check_from_dicom(sources):
    """Refuse --dicom-seg for studies without a DICOM series that it could refer to."""
    from strokeseg_tf.prediction.dicom_seg import check_available

    check_available()
    others = [files.study for files in sources.files if files.study not in sources.series]
    if others:
        raise InputError(
            f"--dicom-seg refers to the DICOM that a study comes from, but {others[0]} is NIfTI; "
            "name folders of DICOM, or leave it out"
        )


def tell_alarms_of(result):
    """The alarms of all studies, a sentence for each kind."""
    from strokeseg_tf.prediction.alarms import Alarm, tell_alarms

    studies = result["studies"].items()
    return tell_alarms({name: [Alarm(**a) for a in entry["alarms"]] for name, entry in studies})


def print_result(result, arguments):
    """A row a study and modality, or the JSON that `predictions.json` holds."""
    if arguments.json:
        from strokeseg_tf.console import print_json

        print_json(result)
        return
    rows = [
        [study, modality, facts["volume_ml"], facts["lesions"], entry["seconds"]]
        for study, entry in result["studies"].items()
        for modality, facts in entry["masks"].items()
    ]
    print_table(["study", "modality", "volume ml", "lesions", "seconds"], rows)
    print(arguments.out)
