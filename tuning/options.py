"""From the options of `tune` to the search that they describe."""

import argparse
from pathlib import Path

from strokeseg_tf.commands.settings import resolve_config
from strokeseg_tf.config import read_object
from strokeseg_tf.console import remark
from strokeseg_tf.runs import Run
from tfrecord_tools.errors import InputError
from tfrecord_tools.shards import read_dataset_info
from tuning.plan import GRID_POINTS, Plan
from tuning.search_space import apply_values, default_space, searched_config
from tuning.space_file import read_space

#: Options that are fields of `Plan` as they are.
PLAIN = ("objective", "tuner", "executions", "repeats", "finalists", "pruning", "patience")


def resolve_plan(arguments) -> Plan:
    """The search that the options describe.

    Raises:
        InputError: Something in them is unknown or impossible.
    """
    default = base = resolve_config(arguments)
    space, fixed = default_space(), {}
    if arguments.space:
        space, fixed = read_space(arguments.space, base)
    base = apply_values(base, fixed)
    if "alpha" in space and base.loss.alpha_reading == "uniform" and not _asked(arguments, fixed):
        remark("alpha is searched under `balanced`; under the preset's `uniform` it has no effect")
        base = searched_config(base)
    folds = len(read_dataset_info(arguments.shards).folds) if arguments.folds else 0
    if arguments.folds and not folds:
        raise InputError(f"{arguments.shards} has no folds for --folds; convert it with --folds")
    options = {name: getattr(arguments, name) for name in PLAIN}
    return Plan(base, default, space, fixed, folds=folds, **options)


def _asked(arguments, fixed) -> bool:
    """Whether the user has said how alpha is to be read."""
    in_file = read_object(arguments.config).get("loss", ()) if arguments.config else ()
    return (
        "alpha_reading" in fixed
        or "alpha_reading" in in_file
        or "loss.alpha_reading" in vars(arguments)
    )


def resolve_trials(arguments, plan: Plan) -> int:
    """How many trials, by `--trials` or the tuner.

    Raises:
        InputError: A grid is larger than that: its first part would leave parameters untouched;
            or Hyperband would end before anything was trained in full.
    """
    if plan.tuner == "hyperband":
        return _hyperband_trials(arguments.trials, plan)
    if plan.tuner != "grid":
        return 20 if arguments.trials is None else arguments.trials
    points = plan.grid_points
    if arguments.trials is not None and arguments.trials < points:
        raise InputError(
            f"the grid has {points} points, {GRID_POINTS} to a range, and --trials "
            f"{arguments.trials} would only vary the last parameters; pass no --trials, or fewer "
            "values by --space"
        )
    return points


def _hyperband_trials(trials: int | None, plan: Plan) -> int:
    from tuning.oracles import build_oracle

    bracket = build_oracle(plan, 1).bracket_trials
    if trials is not None and trials < bracket:
        raise InputError(
            f"Hyperband's first bracket has {bracket} trials, of which only the last are trained "
            f"for all {plan.base.training.epochs} epochs, and --trials is {trials}; pass no "
            "--trials, or fewer --epochs"
        )
    return bracket if trials is None else trials


def check_fit_best(folder: str | Path | None) -> None:
    """Refuse a folder for `--fit-best` that is neither free nor a run, before anything is searched.

    Raises:
        InputError: It is taken.
    """
    if folder is None:
        return
    run = Run(Path(folder))
    if run.config_file.is_file() or not run.folder.exists():
        return
    if not run.folder.is_dir() or any(run.folder.iterdir()):
        raise InputError(f"--fit-best {folder} is taken and is no run; name another folder")


def member_line(arguments, trials: int) -> list[str]:
    """The command of a chief or worker: what decides the search, as options."""
    line = ["tune", arguments.shards, "--run", arguments.folder, "--resume"]
    line += ["--trials", str(trials), "--workers", str(arguments.workers)]
    names = (*PLAIN, "space", "preset", "config", *(n for n in vars(arguments) if "." in n))
    for name in names:
        if (value := getattr(arguments, name)) is not None:
            line += [f"--{name}", str(value)]
    return line + (["--folds"] if arguments.folds else [])


def full_config(arguments):
    """The configuration without `--epochs` and `--fold`, which are for the trials."""
    own = {
        k: v for k, v in vars(arguments).items() if k not in ("training.epochs", "training.fold")
    }
    return resolve_config(argparse.Namespace(**own))
