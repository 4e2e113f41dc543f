"""The search: Keras Tuner proposes, `strokeseg_tf.training.fit` answers."""

import csv
import gc
import json
from pathlib import Path

import keras
import keras_tuner

from strokeseg_tf.config import Config
from strokeseg_tf.engine.history import mean_dice
from strokeseg_tf.training import fit
from tfrecord_tools.atomic import check_free, write_text
from tfrecord_tools.errors import InputError
from tuning.search_space import SEARCH_SPACE, apply_values, declare, searched_config

TUNERS = {
    "bayesian": keras_tuner.BayesianOptimization,
    "random": keras_tuner.RandomSearch,
}

#: Never the loss, whose scale moves with what is searched.
OBJECTIVE = keras_tuner.Objective("mean_validation_dice", "max")

BEST_CONFIG = "best_config.json"


class _RunTrial:
    """Mixed into a Keras Tuner class: a trial is a run of `fit`."""

    def run_trial(self, trial, shards, base: Config):
        """Train one configuration; its objective is the best epoch's mean validation Dice."""
        keras.backend.clear_session()
        gc.collect()
        config = apply_values(base, trial.hyperparameters.values)
        folder = Path(self.get_trial_dir(trial.trial_id)) / "run"
        history = fit(shards, folder, config, overwrite=True, verbose=0)
        return {OBJECTIVE.name: max(map(mean_dice, history))}


def search(
    shards, run, base: Config, *, trials=20, tuner="bayesian", resume=False, overwrite=False
) -> dict:
    """Search alpha, gamma and the class weights.

    Args:
        shards: A finished shards folder with a split `validation`.
        run: Folder of the search.
        base: Settings of every trial but what is searched.
        trials: Trials in all, those of a resumed search included.
        tuner: Key of `TUNERS`.
        resume: Go on with the search in `run`.
        overwrite: Replace the search in `run`.

    Returns:
        `{"trials": [...], "best": configuration}`, trials best first; also written as
        `trials.csv` and `best_config.json`.

    Raises:
        InputError: Unknown tuner, or the folder is taken.
    """
    if tuner not in TUNERS:
        raise InputError(f"unknown tuner {tuner!r}; known: {', '.join(TUNERS)}")
    run, base = Path(run), searched_config(base)
    if not resume:
        check_free(run, overwrite, marker="oracle.json")
    oracle = type(f"{tuner}_search", (_RunTrial, TUNERS[tuner]), {})(
        hyperparameters=declare(keras_tuner.HyperParameters(), base),
        objective=OBJECTIVE,
        max_trials=trials,
        seed=base.training.seed,
        directory=run.parent,
        project_name=run.name,
        overwrite=not resume,
    )
    oracle.search(shards, base)
    return _write_results(run, base, oracle.oracle)


def _write_results(run: Path, base: Config, oracle) -> dict:
    finished = [trial for trial in oracle.trials.values() if trial.score is not None]
    finished.sort(key=lambda trial: -trial.score)
    if not finished:
        raise InputError(f"no trial of {run} has finished; see its trial folders")
    rows = [
        {"trial": trial.trial_id, OBJECTIVE.name: trial.score}
        | {name: trial.hyperparameters.values[name] for name in SEARCH_SPACE}
        for trial in finished
    ]
    with open(run / "trials.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    best = apply_values(base, finished[0].hyperparameters.values)
    write_text(run / BEST_CONFIG, json.dumps(best.to_dict(), indent=2) + "\n")
    return {"trials": rows, "best": best}
