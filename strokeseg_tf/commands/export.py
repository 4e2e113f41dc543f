"""`strokeseg-tf export`: run -> SavedModel for TensorFlow Serving."""

from strokeseg_tf.serving.precision import PRECISIONS

HELP = "export a run as a SavedModel that takes raw studies"
EXAMPLES = """\
  strokeseg-tf export runs/dual_v1 served/strokeseg
  strokeseg-tf export runs/dual_v1 served/strokeseg --version 7 --evaluation evaluation/
  strokeseg-tf export runs/dual_v1 served/strokeseg-bf16 --precision bfloat16
"""


def add_arguments(parser):
    """Declare the arguments."""
    parser.add_argument("run_folder", metavar="RUN", help="run folder")
    parser.add_argument("out", metavar="OUT", help="folder of the model's versions")
    parser.add_argument(
        "--version", type=int, metavar="N", help="number of the version (default: the next)"
    )
    parser.add_argument(
        "--precision",
        default="float32",
        choices=PRECISIONS,
        help="arithmetic; int8 is of the kernels alone (default: float32)",
    )
    parser.add_argument(
        "--evaluation",
        metavar="EVALUATION",
        help="folder that evaluate wrote for this run: its results go into the model card",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the version")


def run(arguments):
    """Export, and print where."""
    from strokeseg_tf.serving.export import export

    folder = export(
        arguments.run_folder,
        arguments.out,
        version=arguments.version,
        precision=arguments.precision,
        evaluation=arguments.evaluation,
        overwrite=arguments.overwrite,
    )
    print(folder)
