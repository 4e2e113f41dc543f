"""Paired comparisons against textbook examples and scipy; Holm by hand; the bootstrap's laws."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from strokeseg_tf.evaluation.comparison import bootstrap_intervals, compare_paired, holm

# Student (1908): hours of sleep gained by ten patients under two drugs.
SLEEP = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0], [
    1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4,
]  # fmt: skip
# Hollander and Wolfe (1973), p. 29: depression scale at two visits.
DEPRESSION = [1.83, 0.50, 1.62, 2.48, 1.68, 1.88, 1.55, 3.06, 1.30], [
    0.878, 0.647, 0.598, 2.05, 1.06, 1.29, 1.06, 3.14, 1.29,
]  # fmt: skip


def test_students_own_example():
    """t = -4.06 on 9 degrees of freedom, p = 0.0028, mean -1.58; d_z = t / sqrt(n) = -1.28."""
    found = compare_paired(*SLEEP)
    assert found["n"] == 10 and found["t"]["df"] == 9
    assert found["mean_difference"] == pytest.approx(-1.58)
    assert found["t"]["statistic"] == pytest.approx(-4.0621, abs=5e-5)
    assert found["t"]["p"] == pytest.approx(0.002833, abs=5e-7)
    assert found["ci"] == pytest.approx([-2.4598858, -0.7001142], abs=1e-6)
    assert found["effect_size"] == pytest.approx(-1.2846, abs=5e-5)


def test_wilcoxon_of_hollander_and_wolfe():
    """T+ = 40 of 45, so the smaller sum is 5; one-sided P = 0.0195, two-sided twice that."""
    found = compare_paired(*DEPRESSION)["wilcoxon"]
    assert found["statistic"] == 5 and found["method"] == "exact"
    assert found["p"] == pytest.approx(0.0390625, abs=1e-12)


@pytest.mark.parametrize("n", [2, 5, 9])
def test_wilcoxon_counts_every_assignment_of_signs(n):
    d = np.random.default_rng(n).normal(0.4, 1, n)
    found = compare_paired(d, np.zeros(n))["wilcoxon"]
    ranks = np.abs(d).argsort().argsort() + 1
    sums = [ranks @ np.array(signs) for signs in product((0, 1), repeat=n)]
    smaller = np.minimum(sums, ranks.sum() - sums)
    assert found["statistic"] == min(ranks[d > 0].sum(), ranks[d < 0].sum())
    assert found["p"] == pytest.approx(np.mean(smaller <= found["statistic"]))


def test_ties_and_zeros_take_the_normal_approximation_without_the_zeros():
    first, second = SLEEP  # One difference is zero, three are tied in pairs.
    found = compare_paired(first, second)["wilcoxon"]
    assert found["method"] == "normal approximation" and found["statistic"] == 0
    kept = [(a, b) for a, b in zip(first, second, strict=True) if round(a - b, 9)]
    assert len(kept) == 9
    again = compare_paired(*np.transpose(kept))["wilcoxon"]
    assert again == found


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=30))
@settings(max_examples=60, deadline=None)
def test_the_other_way_round_only_signs_turn(pairs):
    first, second = np.transpose(pairs)
    found, turned = compare_paired(first, second), compare_paired(second, first)
    assert found["mean_difference"] == -turned["mean_difference"]
    assert found["ci"] == [-end for end in turned["ci"][::-1]]
    assert found["t"]["p"] == turned["t"]["p"]
    assert found["wilcoxon"] == turned["wilcoxon"]
    for p in (found["t"]["p"], found["wilcoxon"]["p"]):
        assert p is None or 0 <= p <= 1


def test_equals_scipy_and_leaves_nan_out_pairwise():
    rng = np.random.default_rng(3)
    first, second = rng.random((2, 40))
    holes = first.copy(), second.copy()
    holes[0][4], holes[1][7] = np.nan, np.nan
    kept = np.delete(first, [4, 7]), np.delete(second, [4, 7])
    found = compare_paired(*holes)
    t, w = stats.ttest_rel(*kept), stats.wilcoxon(*kept)
    assert found["n"] == 38
    assert (found["t"]["statistic"], found["t"]["p"]) == pytest.approx((t.statistic, t.pvalue))
    assert (found["wilcoxon"]["statistic"], found["wilcoxon"]["p"]) == pytest.approx(tuple(w))
    assert found["ci"] == pytest.approx(tuple(t.confidence_interval(0.95)))


@pytest.mark.parametrize("n", [0, 1])
def test_less_than_two_pairs_are_no_test(n):
    found = compare_paired([0.5] * n, [0.2] * n)
    assert found["n"] == n and found["mean_difference"] == (0.3 if n else None)
    assert found["ci"] == [None, None] and found["effect_size"] is None
    assert found["t"]["p"] is None and found["wilcoxon"]["p"] is None


def test_equal_scores_do_not_differ():
    found = compare_paired([0.1, 0.2, 0.9], [0.1, 0.2, 0.9])
    assert found["mean_difference"] == 0 and found["ci"] == [0, 0]
    assert found["t"]["p"] == found["wilcoxon"]["p"] == 1
    assert found["t"]["statistic"] is None and found["effect_size"] is None


def test_a_constant_difference_has_no_t():
    """0.3 - 0.2 and 0.2 - 0.1 differ in the last bit, which would make t 1e16."""
    found = compare_paired([0.3, 0.2, 0.7, 0.6], [0.2, 0.1, 0.6, 0.5])
    assert found["mean_difference"] == pytest.approx(0.1)
    assert found["t"] == {"statistic": None, "df": 3, "p": None} and found["effect_size"] is None
    assert found["wilcoxon"]["statistic"] == 0 and found["wilcoxon"]["p"] < 0.1


def test_holm_by_hand():
    """p.adjust of R gives the same: 4 x 0.005, 3 x 0.01, 2 x 0.03, then not below the last."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_tests_that_were_not_made_do_not_count():
    assert holm([0.02, None, 0.03, None]) == [0.04, None, 0.04, None]
    assert holm([]) == [] and holm([None]) == [None]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_holm_lies_between_none_and_bonferroni_in_any_order(p, random):
    adjusted = holm(p)
    for one, other in zip(p, adjusted, strict=True):
        assert one <= other <= min(1, len(p) * one) + 1e-15
    order = random.sample(range(len(p)), len(p))
    assert holm([p[place] for place in order]) == [adjusted[place] for place in order]


def test_the_bootstrap_agrees_with_scipy_and_repeats_itself():
    values = np.random.default_rng(0).beta(2, 1, 31)
    lower, upper = bootstrap_intervals(values[:, None])[:, 0]
    reference = stats.bootstrap(
        (values,), np.mean, n_resamples=10_000, method="percentile", rng=np.random.default_rng(5)
    ).confidence_interval
    assert (lower, upper) == pytest.approx((reference.low, reference.high), abs=0.004)
    again = bootstrap_intervals(values[:, None])[:, 0]
    assert (lower, upper) == tuple(again)
    assert (lower, upper) != tuple(bootstrap_intervals(values[:, None], seed=1)[:, 0])


def test_the_bootstrap_follows_a_change_of_unit_and_shares_its_draws():
    values = np.random.default_rng(0).random(12)
    lower, upper = bootstrap_intervals(np.transpose([values, 3 * values + 1]), resamples=500).T
    assert upper == pytest.approx(3 * lower + 1)


def test_many_studies_are_drawn_in_blocks():
    """More draws than are held at once: the interval is that of the normal approximation."""
    values = np.random.default_rng(0).random(3000)
    lower, upper = bootstrap_intervals(values[:, None], resamples=2000)[:, 0]
    error = 1.96 * values.std() / np.sqrt(3000)
    assert (lower, upper) == pytest.approx(
        (values.mean() - error, values.mean() + error), abs=error * 0.12
    )


def test_one_value_has_no_interval_and_a_constant_none_to_speak_of():
    assert np.isnan(bootstrap_intervals([[0.5]])).all()
    assert bootstrap_intervals([[0.25]] * 5).tolist() == [[0.25], [0.25]]
    with pytest.raises(ValueError, match="finite"):
        bootstrap_intervals([[0.5], [np.nan]])
