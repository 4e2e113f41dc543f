"""From search to run: the winner trained in full."""

from pathlib import Path

from strokeseg_tf.config import Config
from strokeseg_tf.engine.precision import choose_precision
from strokeseg_tf.runs import Run
from strokeseg_tf.training import fit
from tfrecord_tools.errors import InputError
from tuning.plan import Plan
from tuning.results import origin, winning_config


def fit_best(shards, search, run, plan: Plan, winner: dict, base: Config):
    """Train what a search has found, under the settings of `base` for all else.

    Args:
        shards: A finished shards folder.
        search: Folder of the search.
        run: Run folder to write; an interrupted one goes on.
        plan: The search.
        winner: The result to train; see `tuning.results.best_trial`.
        base: All settings that were not searched.

    Returns:
        The history; see `strokeseg_tf.training.fit`.

    Raises:
        InputError: The run was started with other settings; see `fit` for more.
    """
    if plan.base.loss.alpha_reading != base.loss.alpha_reading and "alpha" in winner["values"]:
        base = base.replace(loss={"alpha_reading": plan.base.loss.alpha_reading})
    config = winning_config(plan, winner, base)
    config = config.replace(training={"precision": choose_precision(config.training.precision)})
    before = Run(Path(run))
    if before.config_file.is_file() and before.read_config() != config:
        raise InputError(
            f"--fit-best {run} was started with other settings, of another search or of an earlier "
            "winner; name another folder"
        )
    return fit(shards, run, config, resume=True, origin=origin(search, plan, winner))
