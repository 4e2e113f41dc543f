"""Decisions of a search that figures alone make: early ends, luck, importance, the winner."""

import numpy as np
import pytest

from strokeseg_tf.config import SMALL
from tfrecord_tools.errors import InputError
from tuning.importance import importance
from tuning.noise import expected_maximum, noise_of, verdict
from tuning.plan import Plan
from tuning.results import (
    best_trial,
    comparable,
    configuration,
    distinct,
    finalists,
    pareto_front,
    rows_of,
    told_score,
    winning_config,
)
from tuning.search_space import Choices, Range, apply_values, default_space, searched_config
from tuning.stopping import StoppingRules

PLAN = Plan(searched_config(SMALL), SMALL, default_space())


def result(trial, score, status="complete", dice=None, **values):
    return {
        "trial": trial, "score": score, "sd": None, "status": status, "dice": dice or {},
        "values": values, "epochs": 3, "seconds": 1.0, "reason": None, "trainings": [],
    }  # fmt: skip


def test_a_training_ends_where_it_is_planned_to():
    assert StoppingRules(9, 9).reason([0.1] * 8) is None
    assert StoppingRules(9, 9).reason([0.1] * 9) == "complete"
    assert StoppingRules(9, 3).reason([0.1] * 3) == "complete"


def test_patience_counts_epochs_since_the_best():
    rules = StoppingRules(9, 9, patience=2)
    assert rules.reason([0.1, 0.3, 0.2]) is None
    assert rules.reason([0.1, 0.3, 0.2, 0.3]) == "patience"


def test_the_median_rule_compares_best_epochs_at_the_same_age():
    others = [[0.5, 0.6, 0.1, 0.1]] * 3 + [[0.1, 0.2, 0.3, 0.9]] * 2
    rules = StoppingRules(4, 4, others=others)
    assert rules.reason([0.0]) is None  # Before half of the epochs.
    assert rules.reason([0.0, 0.59]) == "median"
    assert rules.reason([0.6, 0.0]) is None
    assert StoppingRules(4, 4, others=others[1:]).reason([0.0, 0.0]) is None  # Too few.
    short = [other[:2] for other in others]
    assert StoppingRules(4, 4, others=short).reason([0.0, 0.0, 0.0]) is None  # None came so far.


@pytest.mark.parametrize("count", [1, 5, 20])
def test_luck_is_the_mean_of_the_best_of_as_many_draws(count):
    draws = np.random.default_rng(0).standard_normal((20000, count)).max(axis=1)
    assert expected_maximum(count) == pytest.approx(draws.mean(), abs=0.02)


def test_noise_is_not_sold_as_a_find():
    noise = noise_of([0.4, 0.5, 0.6], 20)
    assert (noise.mean, noise.sd) == (pytest.approx(0.5), pytest.approx(0.1))
    assert "by luck alone in at most 97.1 % of searches" in verdict(noise, 0.65)
    assert "by luck alone in less than 0.1 % of searches" in verdict(noise_of([0.5, 0.5], 20), 0.6)
    assert "better than the default" in verdict(noise, 0.45)
    assert "No training of the default has ended" in verdict(noise_of([], 20), 0.45)
    assert "No finalist was trained to its end" in verdict(noise, None, "finalist")
    # The mean of four trainings is half as lucky.
    assert noise_of([0.4, 0.5, 0.6], 20, seeds=4).luck - 0.5 == pytest.approx(
        (noise.luck - 0.5) / 2
    )
    assert "nothing about noise" in verdict(noise_of([0.5], 20), 0.6)


@pytest.mark.parametrize(("candidates", "seeds"), [(1, 2), (3, 2), (20, 1)])
def test_the_chance_of_luck_is_how_often_it_happens(candidates, seeds):
    """Of searches without anything better than the default few look as if there was."""
    rng, chances = np.random.default_rng(0), []
    for _ in range(4000):
        default = list(rng.normal(0.5, 0.1, 3))
        scores = rng.normal(0.5, 0.1, (candidates, seeds)).mean(axis=1)
        noise = noise_of(default, candidates, seeds, default[1:] if seeds > 1 else ())
        chances.append(noise.chance(scores.max()))
    for level in (0.05, 0.2):
        assert 0.2 * level < np.mean(np.array(chances) < level) < 1.1 * level


def test_importance_finds_what_mattered():
    rng = np.random.default_rng(0)
    space = {"gamma": Range(0, 5), "lesion_weight": Range(1, 20, "log"), "filters": Choices((1, 2))}
    trials = []
    for number in range(40):
        values = {"gamma": rng.uniform(0, 5), "filters": int(rng.integers(1, 3))}
        values["lesion_weight"] = float(np.exp(rng.uniform(0, 3)))
        trials.append(result(str(number), np.log(values["lesion_weight"]), **values))
    found = importance(space, trials)
    assert max(found["parameters"], key=found["parameters"].get) == "lesion_weight"
    assert found["r2"] > 0.8
    assert importance(space, trials[:5]) is None


def test_the_front_holds_who_is_not_beaten_on_both_heads():
    heads = {"0": (0.5, 0.5), "1": (0.6, 0.4), "2": (0.4, 0.5), "3": (0.6, 0.4)}
    trials = [result(t, 0, dice={"adc": d[0], "dwi": d[1]}) for t, d in heads.items()]
    assert pareto_front(trials) == {"0", "1", "3"}
    best = {"adc": 0.9, "dwi": 0.9}
    others = [result("4", 0.9, "pruned", best), result("default-0", 0.9, dice=best)]
    assert pareto_front([*trials, *others]) == {"0", "1", "3"}


def test_of_hyperband_the_longest_round_is_compared():
    rounds = {"0": 2, "1": 2, "2": 6, "3": 6}
    trials = [result(t, 0.5, **{"gamma": 1.0, "tuner/epochs": e}) for t, e in rounds.items()]
    assert [r["trial"] for r in comparable(trials)] == ["2", "3"]
    assert [r["trial"] for r in comparable([result("0", 0.1), result("1", 0.2, "pruned")])] == ["0"]
    assert [configuration(r) for r in distinct(trials)] == [{"gamma": 1.0}]


def test_the_default_wins_where_its_mean_is_above_every_trial():
    default = [result("default-0", 0.5), result("default-1", 0.7)]
    low, high = result("0", 0.55, gamma=1.0), result("1", 0.65, gamma=3.0)
    winner = best_trial("s", PLAN, [*default, low])
    assert (winner["trial"], winner["score"]) == ("default-0", pytest.approx(0.6))
    assert winning_config(PLAN, winner) == SMALL
    assert best_trial("s", PLAN, [*default, low, high])["trial"] == "1"
    assert winning_config(PLAN, high) == apply_values(PLAN.base, {"gamma": 3.0})


def test_a_fixed_factor_is_applied_once():
    fixed = {"filters": 0.5, "augmentation": 2.0}
    plan = Plan(apply_values(PLAN.base, fixed), SMALL, PLAN.space, fixed)
    winner = result("0", 0.9, gamma=3.0)
    trained = apply_values(plan.base, winner["values"])
    assert winning_config(plan, winner) == trained
    assert winning_config(plan, winner, PLAN.base) == trained
    assert trained.model.filters[0] == SMALL.model.filters[0] / 2


def test_the_winner_is_the_finalist_whose_repeats_are_best():
    default = [result(f"default-{n}", 0.5) for n in range(3)]
    trials = [result("0", 0.9), result("1", 0.8), result("2", 0.7), result("3", 0.6)]
    repeats = [result("0-1", 0.5), result("0-2", 0.6), result("1-1", 0.6), result("1-2", 0.7)]
    failed = [result("2-1", 0.9), result("2-2", None, "failed")]
    results = [*default, *trials, *repeats, *failed]
    # The lucky one is second, one that failed under another seed is none.
    found = [(r["trial"], pytest.approx(r["score"])) for r in finalists(PLAN, results)]
    assert found == [("1", 0.65), ("0", 0.55)]
    winner = best_trial("s", PLAN, results)
    assert (winner["trial"], winner["score"]) == found[0]
    rows = rows_of(PLAN, results)
    assert [row["trial"] for row in rows[:2]] == ["1", "0"]
    assert rows[0]["repeated"] == pytest.approx(0.65) and rows[2]["repeated"] is None
    better = [result(f"default-{n}", 0.66) for n in range(3)]
    assert best_trial("s", PLAN, [*better, *trials, *repeats])["trial"] == "default-0"
    # An interrupted search has no finalist yet.
    assert best_trial("s", PLAN, [*default, *trials, repeats[0]])["trial"] == "0"


def test_finalists_are_compared_with_the_default_under_the_same_seeds():
    default = [result("default-0", 0.9), result("default-1", 0.5), result("default-2", 0.5)]
    trials = [result("0", 0.9), result("0-1", 0.6), result("0-2", 0.6)]
    winner = best_trial("s", PLAN, [*default, *trials])
    assert (winner["trial"], winner["score"]) == ("0", pytest.approx(0.6))
    better = [default[0], result("default-1", 0.7), default[2] | {"score": 0.7}]
    winner = best_trial("s", PLAN, [*better, *trials])
    assert (winner["trial"], winner["score"]) == ("default-0", pytest.approx(0.7))


def test_a_trial_of_which_a_repeat_has_failed_wins_nothing():
    trials = [result("0", 0.9), result("0-1", 0.9), result("0-2", None, "failed")]
    assert best_trial("s", PLAN, [*trials, result("1", 0.1)])["trial"] == "1"
    assert best_trial("s", PLAN, [*trials, result("default-0", 0.1)])["trial"] == "default-0"


def test_a_tuner_is_told_of_a_pruned_trial_what_its_mean_would_be():
    """The first fold is an easy one: every trial has 0.2 more there than in the mean."""
    others = [
        result(str(n), score) | {"trainings": [{"score": score + 0.2}]}
        for n, score in enumerate((0.3, 0.5))
    ]
    pruned = result("2", 0.4, "pruned")
    assert told_score(pruned, [*others, pruned]) == pytest.approx(0.2)
    assert told_score(others[0], others) == 0.3
    assert told_score(pruned, [pruned]) == 0.4


def test_pruned_and_failed_trials_win_nothing_and_stand_last():
    failed = result("2", None, "failed") | {"reason": "out of memory"}
    trials = [failed, result("1", 0.9, "pruned"), result("0", 0.1)]
    assert best_trial("s", PLAN, trials)["trial"] == "0"
    assert [row["trial"] for row in rows_of(PLAN, trials)] == ["0", "1", "2"]
    with pytest.raises(InputError, match="trial 2: out of memory"):
        best_trial("s", PLAN, trials[:2])


def test_settings_of_a_plan_are_checked():
    for wrong, words in (
        ({"objective": "loss"}, "known: native, slices, adc, dwi"),
        ({"tuner": "gradient"}, "known: bayesian, random, grid, hyperband"),
        ({"pruning": "hard"}, "known: median, none"),
        ({"executions": 0}, "--executions must be at least 1"),
        ({"finalists": -1}, "--finalists must be at least 0"),
    ):
        with pytest.raises(InputError, match=words):
            Plan(PLAN.base, SMALL, PLAN.space, **wrong)
    dwi = PLAN.base.replace(model={"variant": "unimodal", "modality": "dwi"})
    with pytest.raises(InputError, match="adc needs a model with that head"):
        Plan(dwi, dwi, PLAN.space, objective="adc")


def test_the_objective_is_the_mean_over_heads_of_what_it_names():
    row = {"val_adc_dice": 0.2, "val_dwi_dice": 0.4, "val_loss": 9.0}
    row |= {"val_adc_dice_slices": 0.6, "val_dwi_dice_slices": 0.8}
    values = {"native": 0.3, "slices": 0.7, "adc": 0.2, "dwi": 0.4}
    for objective, value in values.items():
        plan = Plan(PLAN.base, SMALL, PLAN.space, objective=objective)
        assert plan.value_of(row) == pytest.approx(value)
