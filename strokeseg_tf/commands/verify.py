"""`strokeseg-tf verify`: checksums and a stored example of an export recomputed."""

from strokeseg_tf.console import print_table
from tfrecord_tools.errors import InputError

HELP = "recompute the checksums and the stored example of an export"
EXAMPLES = """\
  strokeseg-tf verify served/strokeseg
  strokeseg-tf verify served/strokeseg/7 --json
"""


def add_arguments(parser):
    """Declare the arguments."""
    parser.add_argument(
        "export", metavar="EXPORT", help="folder of a version, or of versions: then the highest"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def run(arguments):
    """Verify, print what was found, and fail on any difference."""
    from strokeseg_tf.serving.verification import verify

    result = verify(arguments.export)
    print_result(result, arguments.json)
    if result["differences"]:
        raise InputError(
            f"{result['export']} is not what was exported ({'; '.join(result['differences'])}); "
            "get it anew from where it was made"
        )


def print_result(result, as_json):
    """A row a check, or the JSON of all."""
    if as_json:
        from strokeseg_tf.console import print_json

        print_json(result)
        return
    files, example = f"{result['files']} checksums", "not run: files differ"
    if result["example"]:
        example = "off by {max_difference:.1e}, at most {tolerance}".format(**result["example"])
    elif result["differences"]:
        files = f"{len(result['differences'])} differ"
    rows = [
        ["export", result["export"]],
        ["sha256", result["description_sha256"]],
        ["files", files],
        ["example", example],
    ]
    print_table(["checked", "found"], rows)
