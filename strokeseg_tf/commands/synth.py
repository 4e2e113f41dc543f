"""`strokeseg-tf synth`: a phantom cohort."""

from strokeseg_tf.console import progress
from tfrecord_tools.errors import InputError

HELP = "make a phantom cohort: ADC, DWI and the masks of two raters"
EXAMPLES = """\
  strokeseg-tf synth phantoms/
  strokeseg-tf synth phantoms/ --studies 20 --controls 2 --matrix 128 --jobs 2
"""


def add_arguments(parser):
    """Declare the arguments."""
    parser.add_argument("out", metavar="OUT", help="folder to write")
    parser.add_argument("--studies", type=int, default=82, help="studies in all (default: 82)")
    parser.add_argument("--controls", type=int, default=7, help="of them controls (default: 7)")
    parser.add_argument("--seed", type=int, default=0, help="seed (default: 0)")
    parser.add_argument("--matrix", type=int, default=256, help="pixels a side (default: 256)")
    parser.add_argument(
        "--slices", type=parse_range, default=(20, 26), help="LOW-HIGH slices (default: 20-26)"
    )
    parser.add_argument("--jobs", type=int, default=1, metavar="J", help="processes (default: 1)")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")


def parse_range(text):
    """`20-26` -> (20, 26)."""
    import argparse

    try:
        low, high = (int(part) for part in text.split("-"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected LOW-HIGH, received {text!r}") from None
    return low, high


def run(arguments):
    """Make the cohort, and print where."""
    from tfrecord_tools.phantom.cohort import write_phantom_cohort

    try:
        with progress("phantoms") as on_study:
            write_phantom_cohort(
                arguments.out,
                studies=arguments.studies,
                controls=arguments.controls,
                seed=arguments.seed,
                matrix=arguments.matrix,
                slices=arguments.slices,
                jobs=arguments.jobs,
                overwrite=arguments.overwrite,
                on_study=on_study,
            )
    except ValueError as error:
        raise InputError(str(error)) from error
    print(arguments.out)
