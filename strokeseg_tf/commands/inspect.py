"""`strokeseg-tf inspect`: what stands in a shards folder, and whether it is whole."""

from strokeseg_tf.commands.convert import print_counts
from strokeseg_tf.console import print_json, remark
from tfrecord_tools.errors import InputError

HELP = "count and check a shards folder, or write its studies back as NIfTI"
EXAMPLES = """\
  strokeseg-tf inspect shards/
  strokeseg-tf inspect s3://bucket/shards --json
  strokeseg-tf inspect shards/ --extract studies/
"""


def add_arguments(parser):
    """Declare the arguments."""
    parser.add_argument("shards", metavar="SHARDS", help="shards folder, here or s3://, gs://, ...")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--extract", metavar="OUT", help="write the studies back as NIfTI")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")


def run(arguments):
    """Check every record, then print the counts."""
    import dataclasses

    from tfrecord_tools.extraction import extract
    from tfrecord_tools.integrity import describe_problems, find_problems
    from tfrecord_tools.shards import read_dataset_info

    info = read_dataset_info(arguments.shards)
    problems = list(find_problems(arguments.shards, info))
    if arguments.json:
        found = {"ok": not problems, "problems": problems, "counts": info.counts}
        print_json(found | dataclasses.asdict(info))
    if problems:
        raise InputError(describe_problems(arguments.shards, problems))
    if arguments.extract:
        extract(arguments.shards, arguments.extract, overwrite=arguments.overwrite)
        moved = sum(bool(study.get("adc_resampled")) for study in info.studies.values())
        if moved:
            remark(
                f"the ADC of {moved} of {len(info.studies)} studies was resampled at conversion: "
                "it is written on the grid of DWI, not its own; all else equals the source"
            )
    if arguments.json:
        return
    print_counts(info)
    shards = len(info.shards)
    print(f"{shards} shard{'s' * (shards != 1)} whole: every checksum and split holds")
    if arguments.extract:
        print(arguments.extract)
