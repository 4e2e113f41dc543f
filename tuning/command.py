"""`strokeseg-tf tune`: search alpha, gamma and the class weights."""

from strokeseg_tf.commands.fit import add_config_arguments, resolve_config
from strokeseg_tf.console import keras_progress, print_table

HELP = "search alpha, gamma and the class weights with Keras Tuner"
EXAMPLES = """\
  strokeseg-tf tune shards/ --run search/ --preset small --trials 20 --epochs 10
  strokeseg-tf tune shards/ --run search/ --preset small --trials 40 --epochs 10 --resume
  strokeseg-tf fit shards/ --run runs/best --config search/best_config.json
"""


def add_arguments(parser):
    """Declare the arguments."""
    parser.add_argument("shards", metavar="SHARDS", help="shards folder")
    parser.add_argument("--run", metavar="DIR", required=True, dest="folder", help="search folder")
    parser.add_argument("--trials", type=int, default=20, metavar="N", help="(default: 20)")
    parser.add_argument(
        "--tuner", default="bayesian", help="bayesian or random (default: bayesian)"
    )
    add_config_arguments(parser)
    parser.add_argument("--resume", action="store_true", help="go on with the search in DIR")
    parser.add_argument("--overwrite", action="store_true", help="replace the search in DIR")


def run(arguments):
    """Search, and print the trials, best first."""
    config = resolve_config(arguments)
    from tuning.search import BEST_CONFIG, search

    with keras_progress():
        result = search(
            arguments.shards,
            arguments.folder,
            config,
            trials=arguments.trials,
            tuner=arguments.tuner,
            resume=arguments.resume,
            overwrite=arguments.overwrite,
        )
    header = list(result["trials"][0])
    print_table(header, [[row[column] for column in header] for row in result["trials"][:10]])
    print(f"{arguments.folder}/{BEST_CONFIG}")
