"""Keras Tuner's oracles survive a death at any write: no ended trial is lost or run again."""

import json
import signal
import threading
import time

import pytest

from strokeseg_tf.config import SMALL
from strokeseg_tf.interruption import stopped_alike
from tfrecord_tools.atomic import write_text
from tfrecord_tools.errors import InputError
from tuning.oracles import ORACLES, TRIAL, build_oracle
from tuning.plan import Plan
from tuning.results import DEFAULT, RESULT, is_proposal, repeat_of, trial_folder
from tuning.search_space import Choices, default_space, searched_config

BASE = searched_config(SMALL.replace(training={"epochs": 4}))
SPACE = {"gamma": Choices((0.0, 1.0, 2.0)), "lesion_weight": Choices((1.0, 2.0))}
TRIALS = 6


class Death(BaseException):
    """What a kill is for the process that it hits."""


def new_oracle(folder, tuner, die_at=None, workers=(), space=SPACE, repeats=0):
    """An oracle that has loaded what is in the folder, and dies before a write or after it."""
    plan = Plan(BASE, SMALL, space, tuner=tuner, repeats=repeats, finalists=2)
    oracle = build_oracle(plan, TRIALS, workers)
    oracle._set_project_dir(folder.parent, folder.name)
    oracle.reload()
    write, writes = oracle._write, 0

    def dying(path, state):
        nonlocal writes
        writes += 1
        if writes == die_at:
            raise Death
        write(path, state)

    oracle._write = dying
    return oracle


def finish(oracle, started, ended):
    """Run what the oracle proposes to the end, with a score that depends on the values alone."""
    while True:
        trial = oracle.create_trial("tuner0")
        if trial.status == "STOPPED":
            return
        started.append(trial.trial_id)
        values = trial.hyperparameters.values
        end(oracle, trial, values["gamma"] - 0.1 * values["lesion_weight"])
        ended.append(trial.trial_id)


def end(oracle, trial, score):
    """End a trial as the tuner does: its result is written first."""
    values = trial.hyperparameters.values
    result = {"trial": trial.trial_id, "status": "complete", "score": score, "values": values}
    result["epochs"] = values.get("tuner/epochs", BASE.training.epochs)
    folder = trial_folder(oracle._project_dir, trial.trial_id)
    folder.mkdir(exist_ok=True)
    write_text(folder / RESULT, json.dumps(result))
    oracle.update_trial(trial.trial_id, {"validation_dice": score})
    trial.status = "COMPLETED"
    oracle.end_trial(trial)


@pytest.mark.parametrize("tuner", ORACLES)
def test_a_trial_whose_result_was_removed_is_run_anew(tuner, tmp_path):
    folder = tmp_path / "search"
    finish(new_oracle(folder, tuner), [], [])
    (trial_folder(folder, "2") / RESULT).unlink()
    again, started = new_oracle(folder, tuner), []
    assert not again.is_done
    finish(again, started, [])
    assert started == ["2"] and again.is_done
    assert again.trials["2"].status == "COMPLETED" and again.trials["2"].score is not None


@pytest.mark.parametrize("tuner", ORACLES)
def test_trials_that_were_counted_and_not_written_are_proposed_again(tuner, tmp_path):
    """The state after a full disk, on which oracle.json had room and trial.json none."""
    folder, space = tmp_path / "search", SPACE if tuner == "grid" else default_space()
    first = new_oracle(folder, tuner, space=space)
    for _ in range(3):
        end(first, first.create_trial("tuner0"), 0.5)
    last = [first.create_trial(f"worker{n}").trial_id for n in range(2)]
    for name in last:
        (trial_folder(folder, name) / TRIAL).unlink()
    again, started = new_oracle(folder, tuner, space=space), []
    finish(again, started, [])
    assert started[:2] == last and len(again.trials) == TRIALS
    values = [json.dumps(t.hyperparameters.values) for t in again.trials.values()]
    assert tuner == "hyperband" or len(set(values)) == TRIALS


@pytest.mark.parametrize("content", ["", "{", "[]", "{}"])
@pytest.mark.parametrize("name", ["oracle.json", "trial_1/trial.json"])
def test_damage_is_one_line_that_names_the_file(name, content, tmp_path):
    folder = tmp_path / "search"
    finish(new_oracle(folder, "bayesian"), [], [])
    (folder / name).write_text(content)
    with pytest.raises(InputError, match=f"{name} is damaged.*--overwrite") as caught:
        new_oracle(folder, "bayesian")
    assert "\n" not in str(caught.value)
    (folder / "trial_1" / TRIAL).unlink()
    (folder / "oracle.json").write_text('{"start_order": ["0", "1", "2"]}')
    with pytest.raises(InputError, match=f"trial_1/{TRIAL} is missing"):
        new_oracle(folder, "bayesian")


@pytest.mark.parametrize("tuner", ORACLES)
def test_a_death_at_any_write_loses_no_trial_and_repeats_none(tuner, tmp_path):
    whole = []
    finish(new_oracle(tmp_path / "whole", tuner), [], whole)
    assert len(whole) == len(set(whole)) == TRIALS
    for die_at in range(1, 4 * TRIALS + 1, 3 if tuner == "bayesian" else 1):
        folder, started, ended = tmp_path / str(die_at), [], []
        with pytest.raises(Death):
            finish(new_oracle(folder, tuner, die_at), started, ended)
        before, again = list(ended), new_oracle(folder, tuner)
        finish(again, started, ended)
        assert {n: t.status for n, t in again.trials.items()} == dict.fromkeys(whole, "COMPLETED")
        # Only the one that the death has hit may have been started twice.
        assert len(started) <= TRIALS + 1
        assert all(started.count(trial) == 1 for trial in before)
        values = [json.dumps(t.hyperparameters.values) for t in again.trials.values()]
        assert tuner == "hyperband" or len(set(values)) == TRIALS


def test_a_bracket_of_hyperband_comes_to_its_end_whatever_the_workers_do(tmp_path):
    oracle = new_oracle(tmp_path / "search", "hyperband", space=default_space())
    oracle.max_trials = oracle.bracket_trials
    running, promoted = [None], []
    while running:
        given = [oracle.create_trial(f"worker{n}") for n in range(4)]
        running = [trial for trial in given if trial.status == "RUNNING"]
        for trial in running[:1]:
            end(oracle, trial, 0.5)
            promoted.append("tuner/trial_id" in trial.hyperparameters.values)
    assert sorted(promoted) == [False] * 5 + [True] * 2


def test_the_gaussian_process_repeats_no_configuration(tmp_path):
    """Of four, one is the best: it would be proposed again and again."""
    space = {"gamma": Choices((0.0, 1.0)), "lesion_weight": Choices((1.0, 2.0))}
    oracle = new_oracle(tmp_path / "search", "bayesian", space=space)
    oracle.num_initial_points = 2
    started = []
    finish(oracle, started, [])
    values = {json.dumps(t.hyperparameters.values) for t in oracle.trials.values()}
    assert len(values) == len(started) == 4


def test_a_configuration_is_a_finalist_once(tmp_path):
    """Hyperband's promoted trials have the values of those before, and at least their score."""
    oracle = new_oracle(tmp_path / "search", "hyperband", repeats=2, space=default_space())
    oracle.max_trials = oracle.bracket_trials
    while (trial := oracle.create_trial("tuner0")).status == "RUNNING":
        if not is_proposal(trial.trial_id) and repeat_of(trial.trial_id)[0] != DEFAULT:
            break
        end(oracle, trial, trial.hyperparameters.values.get("gamma", 0.0))
    repeats = [trial.trial_id]
    end(oracle, trial, 0.5)
    repeats.append(oracle.create_trial("tuner0").trial_id)
    values = [oracle.trials[repeat_of(name)[0]].hyperparameters.values for name in repeats]
    assert len({v["gamma"] for v in values}) == 2
    assert {v["tuner/epochs"] for v in values} == {BASE.training.epochs}


def test_a_grid_goes_over_every_point_once(tmp_path):
    oracle = new_oracle(tmp_path / "grid", "grid")
    finish(oracle, [], [])
    points = {tuple(t.hyperparameters.values.values()) for t in oracle.trials.values()}
    assert len(points) == TRIALS == 3 * 2


def test_a_grid_keeps_several_workers_busy(tmp_path):
    oracle = new_oracle(tmp_path / "grid", "grid")
    given = [oracle.create_trial(f"worker{n}") for n in range(TRIALS)]
    assert {trial.status for trial in given} == {"RUNNING"}
    assert len({trial.trial_id for trial in given}) == TRIALS


def test_after_the_death_of_a_chief_living_workers_keep_their_trials(tmp_path):
    folder = tmp_path / "search"
    oracle = new_oracle(folder, "random")
    first, second = (oracle.create_trial(f"worker{n}").trial_id for n in range(2))
    again = new_oracle(folder, "random", workers=None)
    assert again.create_trial("worker1").trial_id == second
    assert again.create_trial("worker0").trial_id == first
    fewer = new_oracle(folder, "random", workers=["worker0"])
    assert fewer.create_trial("worker0").trial_id == first
    alone = new_oracle(folder, "random")
    assert {alone.create_trial("tuner0").trial_id} <= {first, second}


def test_the_best_trials_are_repeated_when_all_have_ended(tmp_path):
    folder = tmp_path / "search"
    oracle = new_oracle(folder, "grid", repeats=3)
    begun = []
    for score in (0.5, 0.5, 0.5, 0.1, 0.2, 0.3, 0.8, 0.9):
        begun.append(oracle.create_trial("worker0"))
        end(oracle, begun[-1], score)
    last = oracle.create_trial("worker0")
    # The last trial may be one of the best.
    assert oracle.create_trial("worker1").status == "IDLE"
    end(oracle, last, 0.85)
    first, second = (oracle.create_trial(f"worker{n}") for n in range(2))
    assert [t.trial_id for t in begun[:3]] == ["default-0", "default-1", "default-2"]
    assert (first.trial_id, second.trial_id) == ("4-1", "5-1")
    end(oracle, second, 0.7)
    # Another chief: who trains a repeat keeps it, and what has ended is not given out again.
    again = new_oracle(folder, "grid", workers=None, repeats=3)
    assert again.create_trial("worker1").trial_id == "4-2"
    assert again.create_trial("worker0").trial_id == "4-1"
    assert again.create_trial("worker2").trial_id == "5-2"
    assert again.create_trial("worker3").status == "STOPPED" and not again.is_done
    for worker in range(3):
        end(again, again.create_trial(f"worker{worker}"), 0.6)
    assert again.create_trial("worker0").status == "STOPPED" and again.is_done
    assert len(again.trials) == TRIALS


def test_a_chief_hears_that_it_cannot_write_where_ctrl_c_is_left_to_its_parent(tmp_path):
    oracle = new_oracle(tmp_path / "search", "random")
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with pytest.raises(KeyboardInterrupt), stopped_alike():
            writing = threading.Thread(target=oracle._write, args=(tmp_path / "no" / "file", {}))
            writing.start()
            for _ in range(100):  # As a chief waits: no real signal would end a sleep.
                time.sleep(0.05)
    finally:
        signal.signal(signal.SIGINT, before)
    assert isinstance(oracle.failure, FileNotFoundError)


def test_the_seed_0_is_a_seed(tmp_path):
    assert BASE.training.seed == 0
    values = [
        new_oracle(tmp_path / name, "random", space=default_space())
        .create_trial("tuner0")
        .hyperparameters.values
        for name in "ab"
    ]
    assert values[0] == values[1]
