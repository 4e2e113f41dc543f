"""Keras Tuner's oracles, made to survive: what they propose is theirs, what they keep is whole.

Three things of Keras Tuner 1.4 would lose trials or run them twice: it writes its files in place,
so that a kill or a full disk leaves half a file; what it saves at the end of a trial still calls
that trial running; and its grid does not save where it is.
"""

import _thread
import contextlib
import itertools
import json
import shutil
import signal
from pathlib import Path

import keras_tuner
import numpy as np
from keras_tuner.engine.trial import Trial

from tfrecord_tools.atomic import write_text
from tfrecord_tools.errors import InputError
from tuning.plan import GRID_POINTS, Plan
from tuning.results import (
    DEFAULT,
    RESULT,
    complete,
    distinct,
    is_proposal,
    read_result,
    read_results,
    trial_folder,
)
from tuning.search_space import SEARCH_SPACE, Choices, Range

RUNNING, IDLE, STOPPED, ENDED = "RUNNING", "IDLE", "STOPPED", ("COMPLETED", "FAILED")
OBJECTIVE = keras_tuner.Objective("validation_dice", "max")
#: Share of the variance between trials that the Gaussian process takes for noise. Keras Tuner's own
#: 1e-4 would have it follow the luck of every training.
NOISE_SHARE = 0.1
#: In the folder of each trial: what Keras Tuner knows of it.
TRIAL = "trial.json"
_REMEDY = "restore it, or begin the search anew with --overwrite"


class DurableOracle:
    """Mixed into an oracle of Keras Tuner.

    The default's repeats are given out before anything that the oracle proposes, those of the
    finalists when it has no more to propose; it never hears of them.

    Args:
        repeats: Repeats of the default; finalists are repeated once less.
        finalists: How many of the best trials are repeated.
        workers: Ids whose interrupted trials wait for them when the oracle is loaded: such a worker
            may be alive and training. None for all, () where no worker outlives the oracle.
    """

    def __init__(self, *args, repeats=0, finalists=0, workers=(), **kwargs):
        super().__init__(*args, **kwargs)
        self.failure = None
        self._repeats, self._finalists = repeats, finalists
        self._workers, self._interrupted = workers, {}

    @keras_tuner.synchronized
    def create_trial(self, tuner_id):
        if tuner_id not in self.ongoing_trials and (name := self._next_of_default()):
            return self._give_repeat(tuner_id, name)
        trial = super().create_trial(tuner_id)
        if trial.status != STOPPED:
            return trial
        if any(is_proposal(ongoing.trial_id) for ongoing in self.ongoing_trials.values()):
            # It may be a finalist yet.
            self.tuner_ids.add(tuner_id)
            return Trial(keras_tuner.HyperParameters(), trial_id=trial.trial_id, status=IDLE)
        name = self._next_of_finalists()
        return self._give_repeat(tuner_id, name) if name else trial

    def _give_repeat(self, tuner_id, name):
        self.tuner_ids.add(tuner_id)
        self.ongoing_trials[tuner_id] = _repeat(name)
        self.save()
        return self.ongoing_trials[tuner_id]

    def _next_of_default(self):
        return self._first_left(f"{DEFAULT}-{number}" for number in range(self._repeats))

    def _next_of_finalists(self):
        best = distinct(complete(read_results(self._project_dir)))[: self._finalists]
        seeds = range(1, self._repeats)
        return self._first_left(f"{r['trial']}-{number}" for number in seeds for r in best)

    def _first_left(self, names):
        given = {trial.trial_id for trial in self.ongoing_trials.values()}
        left = (n for n in names if n not in given and not read_result(self._project_dir, n))
        return next(left, None)

    @property
    def is_done(self):
        """Whether no trial is left, so that a chief need not wait for a worker to ask."""
        left = self.ongoing_trials or self._retry_queue or len(self.trials) < self.max_trials
        return not (left or self._next_of_default() or self._next_of_finalists())

    def get_trial(self, trial_id):
        if is_proposal(trial_id):
            return super().get_trial(trial_id)
        return _repeat(trial_id)

    @keras_tuner.synchronized
    def update_trial(self, trial_id, metrics, step=0):
        if is_proposal(trial_id):
            return super().update_trial(trial_id, metrics, step=step)
        return self.get_trial(trial_id)

    @keras_tuner.synchronized
    def end_trial(self, trial):
        if is_proposal(trial.trial_id):
            super().end_trial(trial)
        self.ongoing_trials = {
            tuner_id: ongoing
            for tuner_id, ongoing in self.ongoing_trials.items()
            if ongoing.trial_id != trial.trial_id
        }

    def get_state(self):
        state = super().get_state()
        ongoing = state["ongoing_trials"].items()
        state["ongoing_trials"] = {worker: t for worker, t in ongoing if is_proposal(t)}
        state["ongoing_repeats"] = {worker: t for worker, t in ongoing if not is_proposal(t)}
        return state

    def set_state(self, state):
        # Of trials that are lost, which `reload` has left out, nothing is to be known.
        ongoing = state["ongoing_trials"].items()
        lost = {hashed for name, hashed in state["id_to_hash"].items() if name not in self.trials}
        state = state | {
            "start_order": list(self.trials),
            "ongoing_trials": {worker: name for worker, name in ongoing if name in self.trials},
            "tried_so_far": [hashed for hashed in state["tried_so_far"] if hashed not in lost],
        }
        super().set_state(state)
        repeats = state.get("ongoing_repeats", {}).items()
        self._interrupted = self.ongoing_trials | {
            worker: _repeat(t) for worker, t in repeats if not read_result(self._project_dir, t)
        }

    def save(self):
        self._write(Path(self._get_oracle_fname()), self.get_state())

    def _save_trial(self, trial):
        self._write(Path(self._get_trial_dir(trial.trial_id)) / TRIAL, trial.get_state())

    def _write(self, path, state):
        try:
            write_text(path, json.dumps(state))
        except OSError as error:
            # In a chief this is a thread, and the exception would only be told to a worker.
            self.failure = self.failure or error
            # Not by Ctrl-C's signal, which a chief with a parent leaves to that.
            _thread.interrupt_main(signal.SIGTERM)

    def reload(self):
        """Load what is on the disk; trials that have no result go on or are run anew.

        A trial that was written and not yet counted is proposed again, as is one that was counted
        and not written: a full disk leaves such.

        Raises:
            InputError: A file is damaged or missing.
        """
        path = Path(self._get_oracle_fname())
        if not path.is_file():
            return
        with _telling_of_damage(path):
            state = json.loads(path.read_text(encoding="utf-8"))
            self.trials = dict(self._load_trials(state["start_order"]))
            self.set_state(state)
        self.end_order = [name for name, trial in self.trials.items() if trial.status in ENDED]
        self.ongoing_trials = {
            worker: trial
            for worker, trial in self._interrupted.items()
            if trial.status == RUNNING and (self._workers is None or worker in self._workers)
        }
        kept = {trial.trial_id for trial in self.ongoing_trials.values()}
        waiting = [n for n, t in self.trials.items() if t.status not in ENDED and n not in kept]
        self._retry_queue = waiting[::-1]  # It is taken from its end.

    def _load_trials(self, names):
        for at, name in enumerate(names):
            path = trial_folder(self._project_dir, name) / TRIAL
            if path.is_file():
                with _telling_of_damage(path):
                    trial = Trial.from_state(json.loads(path.read_text(encoding="utf-8")))
                ended = trial.status in ENDED and read_result(self._project_dir, name)
                yield name, trial if ended else Trial(trial.hyperparameters, name)
            elif any(_is_kept(self._project_dir, later) for later in names[at:]):
                raise InputError(f"{path} is missing; {_REMEDY}")
            else:
                shutil.rmtree(path.parent, ignore_errors=True)


def _is_kept(search, name):
    """Whether anything is known of a trial."""
    return any((trial_folder(search, name) / file).is_file() for file in (TRIAL, RESULT))


@contextlib.contextmanager
def _telling_of_damage(path):
    try:
        yield
    except InputError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        words = f"{type(error).__name__}: {error}"
        raise InputError(f"{path} is damaged ({words}); {_REMEDY}") from error


def _repeat(name):
    """A trial whose values are those of the default or of the trial that it repeats."""
    return Trial(keras_tuner.HyperParameters(), trial_id=name)


class Bayesian(DurableOracle, keras_tuner.oracles.BayesianOptimizationOracle):
    """Keras Tuner's Gaussian process, which may propose what was tried: a corner of the space."""

    def populate_space(self, trial_id):
        response = super().populate_space(trial_id)
        if response["values"] and self._duplicate(response["values"]):
            return self._random_populate_space()
        return response


class Random(DurableOracle, keras_tuner.oracles.RandomSearchOracle):
    """Keras Tuner's random search."""


class Hyperband(DurableOracle, keras_tuner.oracles.HyperbandOracle):
    """Keras Tuner's Hyperband, whose brackets come to their end with several workers as well."""

    @property
    def bracket_trials(self) -> int:
        """Trials of the first bracket: many of few epochs, then fewer, at last some of all."""
        return self._size(self._get_num_brackets() - 1)

    def set_state(self, state):
        super().set_state(state)
        for bracket in self._brackets:
            bracket["rounds"] = [
                [given for given in one if given["id"] in self.trials] for one in bracket["rounds"]
            ]

    def _size(self, bracket):
        return sum(self._get_size(bracket, n) for n in range(self._get_num_rounds(bracket)))

    def _random_trial(self, trial_id, bracket):
        # A worker that finds none to promote yet would begin the next bracket with a trial that
        # the rounds of this one are to have.
        planned = given = 0
        for before in itertools.takewhile(lambda one: one is not bracket, self._brackets):
            planned += self._size(before["bracket_num"])
            given += sum(map(len, before["rounds"]))
        if self.ongoing_trials and planned - given >= self.max_trials - len(self.trials):
            return {"status": IDLE}
        return super()._random_trial(trial_id, bracket)


class Grid(DurableOracle, keras_tuner.oracles.GridSearchOracle):
    """Keras Tuner's grid search, which neither saves its place nor keeps several workers busy."""

    def populate_space(self, trial_id):
        response = super().populate_space(trial_id)
        if response["status"] == RUNNING:
            # It would wait for the end of the trial, in case that declared another parameter.
            self._populate_next = [trial_id]
        return response

    @keras_tuner.synchronized
    def end_trial(self, trial):
        super().end_trial(trial)
        self._populate_next = self._populate_next[:1]

    def reload(self):
        super().reload()
        for name in self.start_order:
            self._ordered_ids.insert(name)
        self._populate_next = self.start_order[-1:]


ORACLES = {"bayesian": Bayesian, "random": Random, "grid": Grid, "hyperband": Hyperband}


def build_oracle(plan: Plan, trials: int, workers=()):
    """The oracle of a search; the base configuration is the default of its space.

    Args:
        plan: The search.
        trials: Trials in all, the default's repeats not counted.
        workers: See `DurableOracle`.
    """
    own = {"max_trials": trials}
    if plan.tuner == "hyperband":  # It would end by itself after one iteration.
        own = {"max_epochs": plan.base.training.epochs, "hyperband_iterations": None}
    if plan.tuner == "bayesian":
        own["alpha"] = NOISE_SHARE
    oracle = ORACLES[plan.tuner](
        objective=OBJECTIVE,
        hyperparameters=declare(plan),
        seed=plan.base.training.seed + 1,  # Keras Tuner takes 0 for none.
        # After so many it would raise under its lock, which then is never given back.
        max_consecutive_failed_trials=None,
        repeats=plan.repeats,
        finalists=plan.finalists,
        workers=workers,
        **own,
    )
    oracle.max_trials = trials
    oracle.verbose = 0
    return oracle


def declare(plan: Plan):
    """The space as Keras Tuner knows it."""
    declared = keras_tuner.HyperParameters()
    for name, domain in plan.space.items():
        default = SEARCH_SPACE[name].take(plan.base)
        if isinstance(domain, Range) and plan.tuner == "grid":
            spread = np.geomspace if domain.sampling == "log" else np.linspace
            domain = Choices(tuple(map(float, spread(domain.low, domain.high, GRID_POINTS))))
        if isinstance(domain, Range):
            default = min(max(default, domain.low), domain.high)
            bounds = {"sampling": domain.sampling, "default": default}
            declared.Float(name, domain.low, domain.high, **bounds)
        else:
            declared.Choice(name, list(domain.values), default=_nearest(domain.values, default))
    return declared


def _nearest(values, value):
    if isinstance(value, str):
        return value if value in values else values[0]
    return min(values, key=lambda v: abs(v - value))
