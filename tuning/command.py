"""`strokeseg-tf tune`: search alpha, gamma, the class weights and more."""

import functools
import os
from pathlib import Path

from strokeseg_tf.commands.settings import add_config_arguments
from strokeseg_tf.console import print_table, remark
from strokeseg_tf.interruption import prompt_interruption, stopped_alike

HELP = "search alpha, gamma and the class weights with Keras Tuner"
EXAMPLES = """\
  strokeseg-tf tune shards/ --run search/ --preset small --trials 20 --epochs 10
  strokeseg-tf tune shards/ --run search/ --preset small --epochs 10 \\
      --trials 40 --resume --fit-best runs/best
  strokeseg-tf tune shards/ --run search/ --preset small --workers 4
  strokeseg-tf tune shards/ --run search/ --preset small --tuner hyperband \\
      --space space.toml
  strokeseg-tf fit shards/ --run runs/best --config search/best_config.json

a space file (JSON or TOML) narrows, widens, fixes or switches on what is
searched; dropout, filters, augmentation and threshold can be as well:
  alpha = [0.3, 0.9]            # from, to
  gamma = 2                     # fixed
  background_weight = false     # not searched
  learning_rate = true          # searched
  lesion_weight = {low = 1, high = 50, sampling = "log"}
  filters = {choices = [0.5, 1, 2]}
"""


def add_arguments(parser):
    """Declare the arguments."""
    add = parser.add_argument
    add("shards", metavar="SHARDS", help="shards folder")
    add("--run", metavar="DIR", required=True, dest="folder", help="search folder")
    add(
        "--trials",
        type=int,
        metavar="N",
        help="proposals to train, in all (default: 20; a grid: all; hyperband: a bracket)",
    )
    add("--tuner", default="bayesian", help="bayesian (default), random, grid or hyperband")
    add("--space", metavar="FILE", help="what is searched and over which values: see below")
    add("--objective", default="native", help="validation Dice: native (default), slices, adc, dwi")
    add(
        "--executions",
        type=int,
        default=1,
        metavar="K",
        help="trainings of each trial, by other seeds",
    )
    add("--folds", action="store_true", help="each trial on all folds of convert --folds")
    add(
        "--repeats",
        type=int,
        default=3,
        metavar="R",
        help="trainings of the default, by other seeds, for its error bar (default: 3)",
    )
    add(
        "--finalists",
        type=int,
        default=3,
        metavar="F",
        help="best trials to train by these seeds before one is the winner (default: 3)",
    )
    add("--pruning", default="median", help="of hopeless trials: median (default) or none")
    add("--patience", type=int, metavar="E", help="end a training after E epochs without a best")
    add("--workers", type=int, metavar="W", help="processes on this machine, beside their chief")
    add("--fit-best", metavar="RUN", help="then train the winner, for the preset's epochs")
    add_config_arguments(parser)
    add("--resume", action="store_true", help="go on with the search in DIR")
    add("--overwrite", action="store_true", help="replace the search in DIR")


def run(arguments):
    """Search, and print the trials, best first."""
    from tuning.member import follow_parent
    from tuning.options import check_fit_best, full_config, resolve_plan, resolve_trials
    from tuning.results import BEST_CONFIG
    from tuning.starts import forget_all_starts

    follow_parent()
    # A trial that is stopped in the midst of a long step has not died.
    stopped = functools.partial(forget_all_starts, Path(arguments.folder))
    with stopped_alike(), prompt_interruption(last=stopped):
        plan = resolve_plan(arguments)
        check_fit_best(arguments.fit_best)
        outcome = _search(arguments, plan, resolve_trials(arguments, plan))
        if outcome is None:  # A worker; the chief has the results.
            return
        print_table(*_shown(plan, outcome["trials"]))
        print(Path(arguments.folder) / BEST_CONFIG)
        if arguments.fit_best:
            from tuning.winner import fit_best

            shards, folder, run = arguments.shards, arguments.folder, arguments.fit_best
            fit_best(shards, folder, run, plan, outcome["winner"], full_config(arguments))
            print(run)


def _shown(plan, rows):
    """Header and the ten best rows for a terminal of 80 columns; `trials.csv` has the rest."""
    from tuning.results import is_default, is_proposal

    # The mean of a finalist's repeats stands beside it.
    rows = [row for row in rows if is_proposal(row["trial"]) or is_default(row["trial"])][:10]
    columns = ["trial", "status", plan.score_name, "repeated", *plan.space]
    texts = [["" if row[c] is None else _short(row[c]) for c in columns] for row in rows]
    return ["trial", "status", "dice", "again", *plan.space], texts


def _short(value):
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _search(arguments, plan, trials):
    from tuning.local_job import search_with_workers, worker_ids
    from tuning.options import member_line

    shards, folder, workers = arguments.shards, arguments.folder, arguments.workers
    options = {"resume": arguments.resume, "overwrite": arguments.overwrite, "on_trial": _tell}
    if workers is not None and "KERASTUNER_ORACLE_IP" not in os.environ:
        line = member_line(arguments, trials)
        return search_with_workers(shards, folder, plan, trials, workers, line, **options)
    from tuning.search import search

    ids = worker_ids(workers) if workers else None
    return search(shards, folder, plan, trials=trials, workers=ids, **options)


def _tell(result):
    score = "" if result["score"] is None else f" Dice {result['score']:.3f}"
    why = f" ({result['reason']})" if result["reason"] else ""
    remark(f"trial {result['trial']}: {result['status']}{score}, {result['seconds']:.0f} s{why}")
