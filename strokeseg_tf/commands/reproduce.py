"""`strokeseg-tf reproduce`: the paper's experiment on any cohort."""

import json

from strokeseg_tf.commands.evaluate import add_scoring_arguments, check_convention, print_summary
from strokeseg_tf.commands.settings import add_config_arguments, resolve_config
from strokeseg_tf.console import print_json, progress, remark
from strokeseg_tf.interruption import prompt_interruption

HELP = "the paper's experiment: every variant trained, evaluated and reported together"
EXAMPLES = """\
  strokeseg-tf reproduce shards/ -o experiment/ --preset small
  strokeseg-tf reproduce shards/ -o experiment/ --preset paper --precision bfloat16
  strokeseg-tf reproduce shards/ -o experiment/ --config best_config.json --convention paper
Interrupted, the same command goes on where it was.
"""


def add_arguments(parser):
    """Declare the arguments."""
    parser.add_argument("shards", metavar="SHARDS", help="shards folder")
    parser.add_argument("-o", "--out", metavar="OUT", required=True, help="folder to write")
    decided = ("model.variant", "model.modality", "training.fold")
    add_config_arguments(parser, preset="small", without=decided)
    add_scoring_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print the evaluation's summary.json")
    parser.add_argument("--overwrite", action="store_true", help="begin an experiment anew")


def run(arguments):
    """Train and evaluate all, and print the means."""
    config = resolve_config(arguments)
    check_convention(arguments.convention)

    from strokeseg_tf.experiment import evaluate_variants, train_variants

    with prompt_interruption():
        train_variants(
            arguments.shards,
            arguments.out,
            config,
            split=arguments.split,
            convention=arguments.convention,
            overwrite=arguments.overwrite,
            on_run=lambda number, count, name: remark(f"{number} of {count}: {name}"),
        )
    with progress("evaluating") as on_study:
        report = evaluate_variants(arguments.shards, arguments.out, on_study)
    summary = json.loads((report.parent / "summary.json").read_text(encoding="utf-8"))
    if arguments.json:
        print_json(summary)
        return
    print_summary(summary)
    print(report)
