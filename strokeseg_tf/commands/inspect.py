"""`strokeseg-tf inspect`: what stands in a shards folder, and whether it is whole."""

from strokeseg_tf.commands.convert import print_counts
from strokeseg_tf.console import print_json

HELP = "count and check a shards folder, or write its studies back as NIfTI"
EXAMPLES = """\
  strokeseg-tf inspect shards/
  strokeseg-tf inspect shards/ --json
  strokeseg-tf inspect shards/ --extract studies/
"""


def add_arguments(parser):
    """Declare the arguments."""
    parser.add_argument("shards", metavar="SHARDS", help="shards folder")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--extract", metavar="OUT", help="write the studies back as NIfTI")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")


def run(arguments):
    """Check every record, then print the counts."""
    import dataclasses

    from tfrecord_tools.extraction import extract
    from tfrecord_tools.shards import check_shards

    info = check_shards(arguments.shards)
    if arguments.extract:
        extract(arguments.shards, arguments.extract, overwrite=arguments.overwrite)
    if arguments.json:
        print_json({"ok": True, "counts": info.counts} | dataclasses.asdict(info))
        return
    print_counts(info)
    shards = len(info.shards)
    print(f"{shards} shard{'s' * (shards != 1)} whole: every checksum and split holds")
    if arguments.extract:
        print(arguments.extract)
