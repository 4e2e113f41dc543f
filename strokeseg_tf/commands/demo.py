"""`strokeseg-tf demo`: the whole chain on a phantom cohort."""

HELP = "the whole chain on a phantom cohort, in minutes on two cores"
EXAMPLES = """\
  strokeseg-tf demo
  strokeseg-tf demo --out somewhere/
"""


def add_arguments(parser):
    """Declare the arguments."""
    parser.add_argument(
        "--out", default="demo", metavar="DIR", help="folder to write (default: demo)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of cohort and training (default: 0)")
    parser.add_argument("--overwrite", action="store_true", help="replace DIR if it exists")


def run(arguments):
    """Run the other commands one after the other."""
    from strokeseg_tf.demo import run_demo

    run_demo(arguments.out, seed=arguments.seed, overwrite=arguments.overwrite)
