"""`strokeseg-tf evaluate`: score runs and write the report."""

from strokeseg_tf.console import print_table, progress
from tfrecord_tools.errors import InputError

HELP = "score runs on a split: scores.csv, Table 1 beside the paper's, a report"
EXAMPLES = """\
  strokeseg-tf evaluate runs/dual_v1 --data shards/ -o evaluation/
  strokeseg-tf evaluate runs/adc runs/dwi runs/dual_v1 --data shards/ -o evaluation/
  strokeseg-tf evaluate runs/dual_v1 --data shards/ --split validation --convention paper -o v/
  strokeseg-tf evaluate runs/dual_v1 predictions/ --data shards/ --consensus staple -o evaluation/
"""


def add_arguments(parser):
    """Declare the arguments."""
    parser.add_argument(
        "runs", metavar="RUN", nargs="+", help="run folders, or folders that predict wrote"
    )
    parser.add_argument("--data", metavar="SHARDS", required=True, help="shards folder")
    add_scoring_arguments(parser)
    parser.add_argument(
        "--consensus",
        choices=("majority", "staple"),
        help="score against the consensus of all raters as well",
    )
    parser.add_argument("-o", "--out", metavar="OUT", required=True, help="folder to write")
    parser.add_argument("--json", action="store_true", help="print summary.json")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")


def add_scoring_arguments(parser):
    """Declare what is scored, and how."""
    parser.add_argument("--split", default="test", help="split to score (default: test)")
    parser.add_argument(
        "--convention",
        default="isles22",
        help="isles22, isles24, paper or nnunet: what empty masks score (default: isles22)",
    )


def check_convention(name):
    """Refuse an unknown convention before anything is done.

    Raises:
        InputError: With the known ones.
    """
    from strokeseg_tf.evaluation.conventions import find_convention

    try:
        find_convention(name)
    except ValueError as error:
        raise InputError(f"--convention: {error}") from error


def run(arguments):
    """Score, and print the mean Dice of each run."""
    check_convention(arguments.convention)

    from strokeseg_tf.evaluation.cases import evaluate_runs

    with progress("evaluating") as on_study:
        summary = evaluate_runs(
            arguments.runs,
            arguments.data,
            arguments.out,
            split=arguments.split,
            convention=arguments.convention,
            consensus=arguments.consensus,
            overwrite=arguments.overwrite,
            on_study=on_study,
        )
    if arguments.json:
        from strokeseg_tf.console import print_json

        print_json(summary)
        return
    print_summary(summary)
    print(f"{arguments.out}/report.html")


def print_summary(summary):
    """A row a run, modality and rater: means over all studies."""
    rows = [
        [r["run"], r["modality"], r["rater"], r["all"]["n"]]
        + [float("nan") if (m := r["all"]["scores"][s]["mean"]) is None else m for s in SHOWN]
        for r in summary["results"]
    ]
    print_table(["run", "modality", "rater", "studies", *SHOWN], rows)


#: The paper's metrics (Table 1).
SHOWN = ("dice", "precision", "sensitivity")
