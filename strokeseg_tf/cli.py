"""The `strokeseg-tf` command: finds the commands, turns errors into one line."""

import argparse
import contextlib
import importlib
import os
import sys
import traceback
from importlib import metadata
from typing import NoReturn

from strokeseg_tf import __version__
from strokeseg_tf.lean_keras import keep_optional_imports_back
from tfrecord_tools.errors import InputError

DESCRIPTION = """\
Segmentation of ischemic stroke in paired ADC and DWI studies.

For research only. Not a medical device: results must not guide diagnosis or treatment.
"""

GROUP = "strokeseg_tf.commands"


def main(argv=None) -> int:
    """Run a command; the exit status: 0 well, 1 our fault, 2 the user's or the data's."""
    _quiet_tensorflow()
    keep_optional_imports_back()
    if argv is not None:
        return _run(argv)
    try:
        status = _run(argv)
    except Exception:
        if TENSORFLOW not in sys.modules:
            raise
        traceback.print_exc()
        status = 1
    if TENSORFLOW in sys.modules:
        _leave(status)
    return status


#: An ordinary exit waits for its threads: for other workers of a cluster, for iterators that call
#: Python, which may be for ever. Once tensorflow-io's S3 client was used, it aborts (tensorflow/io
#: issue 2039).
TENSORFLOW = "tensorflow"


def _leave(status: int) -> NoReturn:
    """Exit at once, with what was printed but without the destructors of libraries."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(BrokenPipeError):
            stream.flush()
    os._exit(status)


def _run(argv) -> int:
    try:
        arguments = build_parser().parse_args(argv)
        arguments.run(arguments)
    except InputError as error:
        return _fail(str(error))
    except OSError as error:
        if error.filename is None and error.errno is None:
            raise
        where = f" ({error.filename})" if error.filename else ""
        return _fail(f"{error.strerror or error}{where}; check the path, its rights and the disk")
    except KeyboardInterrupt:
        print("strokeseg-tf: interrupted; what was finished is kept", file=sys.stderr)
        # Threads of TensorFlow and worker processes would make an ordinary exit wait.
        _leave(130)
    return 0


def build_parser() -> argparse.ArgumentParser:
    """The parser over all installed commands."""
    parser = _Parser(
        prog="strokeseg-tf",
        description=DESCRIPTION,
        epilog="strokeseg-tf COMMAND --help explains a command and shows examples.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"strokeseg-tf {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=_Parser)
    for name, module in find_commands().items():
        command = commands.add_parser(
            name,
            help=module.HELP,
            description=module.HELP[0].upper() + module.HELP[1:] + ".",
            epilog="examples:\n" + module.EXAMPLES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, as all our errors are."""

    def error(self, message):
        self.exit(2, f"strokeseg-tf: error: {message}; see {self.prog} --help\n")


def find_commands() -> dict:
    """Command modules by name: the entry points of the group `strokeseg_tf.commands`."""
    points = metadata.entry_points(group=GROUP)
    return {point.name: importlib.import_module(point.value) for point in points}


def _fail(message: str) -> int:
    line = " ".join(message.split())
    print(f"strokeseg-tf: error: {line}", file=sys.stderr)
    return 2


def _quiet_tensorflow() -> None:
    """Keep TensorFlow's start-up messages off the terminal."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")


if __name__ == "__main__":
    sys.exit(main())
