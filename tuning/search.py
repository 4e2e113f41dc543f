"""The search: Keras Tuner proposes, `strokeseg_tf.training.fit` answers."""

import contextlib
import gc
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import keras_tuner
from keras_tuner.engine.base_tuner import BaseTuner
from sklearn.exceptions import ConvergenceWarning

from strokeseg_tf.data_cache import DataCache
from strokeseg_tf.interruption import stopped_alike
from tfrecord_tools.errors import InputError
from tuning.lock import search_lock
from tuning.oracles import OBJECTIVE, build_oracle
from tuning.outcome import conclude, is_finished
from tuning.plan import Plan, check_plan, check_search, open_search
from tuning.results import (
    configuration,
    is_default,
    is_proposal,
    read_result,
    read_results,
    repeat_of,
    told_score,
    write_trials,
)
from tuning.search_space import apply_values
from tuning.trial import disk_is_full, run_trial

#: Seconds between two requests for a trial where the oracle had none yet.
PAUSE_SECONDS = 0.5
#: Seconds that a worker has to end when the search has.
POLITE_SECONDS = 10


class TrialRunner(BaseTuner):
    """A tuner of Keras Tuner whose trials are runs of `fit`.

    Args:
        oracle: What proposes.
        folder: Folder of the search.
        plan: The search.
        shards: A finished shards folder.
        content: Of `search.json`, to be compared with the chief's; None where there is no chief.
        on_trial: Called with each result.
    """

    def __init__(self, oracle, folder: Path, plan: Plan, shards, content=None, on_trial=None):
        super().__init__(oracle, directory=folder.parent, project_name=folder.name)
        self._folder, self._plan, self._cache = folder, plan, DataCache(shards)
        self._content, self._on_trial, self._asked = content, on_trial, -PAUSE_SECONDS

    def pre_create_trial(self):
        time.sleep(max(0.0, self._asked + PAUSE_SECONDS - time.monotonic()))
        self._asked = time.monotonic()

    def on_trial_begin(self, trial):
        if self._content:  # Now the chief is there, and so is its file.
            check_plan(self._folder, self._content)
            self._content = None

    def run_trial(self, trial):
        """Run it; its objective is the best epoch's, as `Plan.value_of` names it."""
        plan, name = self._plan, trial.trial_id
        values = self._values(trial)
        config = plan.default if is_default(name) else apply_values(plan.base, values)
        others = [r for r in read_results(self._folder) if is_proposal(r["trial"])]
        others = others if is_proposal(name) else []
        try:
            result = run_trial(self._folder, name, values, config, plan, self._cache, others=others)
            # Up to date at any time, whoever ends the search.
            write_trials(self._folder, plan, read_results(self._folder))
        except OSError as error:
            raise keras_tuner.errors.FatalError(str(error)) from error
        if self._on_trial:
            self._on_trial(result)
        if result["status"] == "failed":
            raise keras_tuner.errors.FailedTrialError(result["reason"])
        return {OBJECTIVE.name: told_score(result, others)}

    def _values(self, trial):
        """What is proposed; of a repeat what was proposed for the trial that it repeats."""
        if is_proposal(trial.trial_id) or is_default(trial.trial_id):
            return trial.hyperparameters.values
        # Trained in full, from the beginning, whatever round of Hyperband it was found in.
        return configuration(read_result(self._folder, repeat_of(trial.trial_id)[0]))

    def _try_run_and_update_trial(self, trial):
        """Keras Tuner's would print a traceback for a trial that failed as trials may."""
        try:
            self._run_and_update_trial(trial)
            trial.status = "COMPLETED"
        except keras_tuner.errors.FailedTrialError as error:
            trial.status, trial.message = "FAILED", str(error)

    def save(self):
        """The oracle saves itself at each trial's begin and end; a runner has no state."""

    def reload(self):
        """Nothing to load; the oracle is loaded by `search`."""


def role() -> str | None:
    """What the environment makes of this process: `chief`, `worker`, or None for a whole search."""
    if "KERASTUNER_ORACLE_IP" not in os.environ:
        return None
    for name in ("KERASTUNER_ORACLE_PORT", "KERASTUNER_TUNER_ID"):
        if name not in os.environ:
            raise InputError(f"KERASTUNER_ORACLE_IP is set and {name} is not; set it as well")
    return "chief" if "chief" in os.environ["KERASTUNER_TUNER_ID"] else "worker"


def search(
    shards,
    folder,
    plan: Plan,
    *,
    trials=20,
    workers=None,
    resume=False,
    overwrite=False,
    on_trial: Callable | None = None,
) -> dict | None:
    """Search, in this process or as a chief or worker that the environment makes of it.

    Args:
        shards: A finished shards folder with the splits or folds that the plan needs.
        folder: Folder of the search; chief and workers share it.
        plan: The search.
        trials: Trials in all, those of a resumed search included; the default's repeats are not.
        workers: Of a chief, the ids that may come back for their interrupted trials; None for any.
        resume: Go on with the search in `folder`.
        overwrite: Replace the search in `folder`.
        on_trial: Called with each result of this process.

    Returns:
        See `tuning.outcome.conclude`; None from a worker.

    Raises:
        InputError: Bad settings or data, another search in the folder, or a full disk.
    """
    folder, part = Path(os.path.abspath(folder)), role()
    check_search(shards, plan, trials)
    content = plan.content(shards)
    if part == "worker":
        runner = TrialRunner(build_oracle(plan, trials), folder, plan, shards, content, on_trial)
        _leave_when_finished(folder, trials)
        _run(runner, None)
        return None
    with search_lock(folder):
        open_search(folder, content, resume=resume, overwrite=overwrite)
        oracle = build_oracle(plan, trials, workers if part == "chief" else ())
        runner = TrialRunner(oracle, folder, plan, shards, on_trial=on_trial)
        oracle.reload()
        if not (oracle.is_done or is_finished(folder, trials)):
            _run(runner, oracle)
        return conclude(folder, plan, trials)


def _leave_when_finished(folder: Path, trials: int) -> None:
    """End a worker whose chief has ended well; asking it for a trial would take an hour to fail."""

    def watch():
        while not is_finished(folder, trials):
            time.sleep(PAUSE_SECONDS)
        time.sleep(POLITE_SECONDS)  # In which it ends by itself, if it has heard from the chief.
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()


def _run(runner, oracle) -> None:
    """Run trials until there are no more; Keras Tuner prints on standard output."""
    gc.freeze()  # After each trial garbage is collected: not among all that was imported.
    try:
        with stopped_alike(), contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
            # Of the Gaussian process on few trials; nothing that a user could mend.
            warnings.simplefilter("ignore", ConvergenceWarning)
            runner.search()
    except keras_tuner.errors.FatalError as error:
        raise InputError(f"{error}; {_advice(error.__cause__)}") from error
    except KeyboardInterrupt:
        if oracle is None or oracle.failure is None:
            raise
    finally:
        gc.unfreeze()
    if oracle and oracle.failure:
        raise InputError(
            f"the search cannot be written ({oracle.failure}); {_advice(oracle.failure)}"
        ) from oracle.failure


def _advice(error) -> str:
    """What to do about an error that has ended the search."""
    return f"{'make room' if disk_is_full(error) else 'mend that'} and go on with --resume"
