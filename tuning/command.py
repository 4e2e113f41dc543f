"""`strokeseg-tf tune`: search alpha, gamma, the class weights and more."""

import json
import os
from pathlib import Path

from strokeseg_tf.commands.fit import add_config_arguments, resolve_config
from strokeseg_tf.console import print_table, remark
from tfrecord_tools.errors import InputError

HELP = "search alpha, gamma and the class weights with Keras Tuner"
EXAMPLES = """\
  strokeseg-tf tune shards/ --run search/ --preset small --trials 20 --epochs 10
  strokeseg-tf tune shards/ --run search/ --preset small --trials 40 --epochs 10 --resume
  strokeseg-tf tune shards/ --run search/ --preset small --workers 4
  strokeseg-tf tune shards/ --run search/ --preset small --space space.toml --tuner hyperband
  strokeseg-tf tune shards/ --run search/ --preset small --epochs 10 --resume --fit-best runs/best
  strokeseg-tf fit shards/ --run runs/best --config search/best_config.json

a space file (.json or .toml) narrows, widens, fixes or switches on what is searched:
  alpha = [0.3, 0.9]            # from, to
  gamma = 2                     # fixed
  background_weight = false     # not searched
  learning_rate = true          # searched; so can be dropout, filters, augmentation, threshold
  lesion_weight = {low = 1, high = 50, sampling = "log"}
  filters = {choices = [0.5, 1, 2]}
"""


def add_arguments(parser):
    """Declare the arguments."""
    add = parser.add_argument
    add("shards", metavar="SHARDS", help="shards folder")
    add("--run", metavar="DIR", required=True, dest="folder", help="search folder")
    add("--trials", type=int, metavar="N", help="in all (default: 20; of a grid: all of it)")
    add("--tuner", default="bayesian", help="bayesian, random, grid or hyperband")
    add("--space", metavar="FILE", help="what is searched and over which values: see below")
    add("--objective", default="native", help="validation Dice: native, slices, adc or dwi")
    add("--executions", type=int, default=1, metavar="K", help="trainings a trial, other seeds")
    add("--folds", action="store_true", help="each trial on all folds of convert --folds")
    add("--repeats", type=int, default=3, metavar="R", help="of the default, as error bar (3)")
    add("--pruning", default="median", help="median (default) or none: end hopeless trials early")
    add("--patience", type=int, metavar="E", help="end a training after E epochs without a best")
    add("--workers", type=int, metavar="W", help="processes on this machine, beside their chief")
    add("--fit-best", metavar="RUN", help="then train the winner, --epochs being the preset's")
    add_config_arguments(parser)
    add("--resume", action="store_true", help="go on with the search in DIR")
    add("--overwrite", action="store_true", help="replace the search in DIR")


def run(arguments):
    """Search, and print the trials, best first."""
    plan = resolve_plan(arguments)
    trials = resolve_trials(arguments, plan)
    from tuning.interruption import prompt_interruption

    with prompt_interruption():
        outcome = _search(arguments, plan, trials)
        if outcome is None:  # A worker; the chief has the results.
            return
        print_table(*_shown(plan, outcome["trials"][:10]))
        print(Path(arguments.folder) / "best_config.json")
        if arguments.fit_best:
            _fit_best(arguments, plan, outcome)


def _shown(plan, rows):
    """Header and rows for a terminal of 80 columns; `trials.csv` has the rest."""
    columns = ["trial", "status", plan.score_name, *plan.space]
    texts = [["" if row[c] is None else _short(row[c]) for c in columns] for row in rows]
    return ["trial", "status", "dice", *plan.space], texts


def _short(value):
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _search(arguments, plan, trials):
    options = {"resume": arguments.resume, "overwrite": arguments.overwrite, "on_trial": _tell}
    if arguments.workers is not None and "KERASTUNER_ORACLE_IP" not in os.environ:
        from tuning.local_job import search_with_workers

        line = member_line(arguments, trials)
        return search_with_workers(
            arguments.shards, arguments.folder, plan, arguments.workers, line, **options
        )
    from tuning.local_job import worker_ids
    from tuning.search import search

    workers = worker_ids(arguments.workers) if arguments.workers else None
    return search(
        arguments.shards, arguments.folder, plan, trials=trials, workers=workers, **options
    )


def _fit_best(arguments, plan, outcome):
    from tuning.winner import fit_best

    arguments.epochs = None
    fit_best(arguments.shards, arguments.folder, arguments.fit_best, plan, outcome["winner"],
             resolve_config(arguments), overwrite=arguments.overwrite)  # fmt: skip
    print(arguments.fit_best)


def _tell(result):
    score = "" if result["score"] is None else f" Dice {result['score']:.3f}"
    why = f" ({result['reason']})" if result["reason"] else ""
    remark(f"trial {result['trial']}: {result['status']}{score}, {result['seconds']:.0f} s{why}")


def resolve_plan(arguments):
    """The search that the options describe.

    Raises:
        InputError: Something in them is unknown or impossible.
    """
    from tfrecord_tools.shards import read_dataset_info
    from tuning.plan import Plan
    from tuning.search_space import apply_values, default_space, searched_config
    from tuning.space_file import read_space

    default = base = resolve_config(arguments)
    space, fixed = default_space(), {}
    if arguments.space:
        space, fixed = read_space(arguments.space, base)
    base = apply_values(base, fixed)
    if "alpha" in space and not {"alpha_reading"} & {*fixed, *_named(arguments.config, "loss")}:
        if base.loss.alpha_reading == "uniform":
            remark("alpha is searched under its reading `balanced`; under the preset's `uniform` "
                   "it is a constant factor")  # fmt: skip
        base = searched_config(base)
    folds = len(read_dataset_info(arguments.shards).folds) if arguments.folds else 0
    if arguments.folds and not folds:
        raise InputError(f"{arguments.shards} has no folds for --folds; convert it with --folds")
    names = ("objective", "tuner", "executions", "repeats", "pruning", "patience")
    options = {name: getattr(arguments, name) for name in names}
    return Plan(base, default, space, fixed, folds=folds, **options)


def _named(config_file, section):
    """Fields of a section that a configuration file names."""
    if not config_file:
        return ()
    return json.loads(Path(config_file).read_text(encoding="utf-8")).get(section, ())


def resolve_trials(arguments, plan) -> int:
    """How many trials, by `--trials` or the tuner.

    Raises:
        InputError: A grid is larger than that: its first part would leave parameters untouched.
    """
    if plan.tuner != "grid":
        return 20 if arguments.trials is None else arguments.trials
    points = plan.grid_points(3)
    if arguments.trials is not None and arguments.trials < points:
        raise InputError(
            f"the grid has {points} points, three to a range, and --trials {arguments.trials} "
            "would only vary the last parameters; pass no --trials, or fewer --space choices"
        )
    return points


def member_line(arguments, trials) -> list[str]:
    """The command of a chief or worker: what decides the search, as options."""
    line = ["tune", arguments.shards, "--run", arguments.folder, "--resume"]
    line += ["--trials", str(trials), "--workers", str(arguments.workers)]
    kept = ("tuner", "space", "objective", "executions", "repeats", "pruning", "patience",
            "preset", "config")  # fmt: skip
    from strokeseg_tf.commands.fit import FIELDS

    for name in (*kept, *FIELDS):
        value = getattr(arguments, name.replace("-", "_"))
        if value is not None:
            line += [f"--{name}", str(value)]
    return line + (["--folds"] if arguments.folds else [])
