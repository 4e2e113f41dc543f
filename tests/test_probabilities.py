"""Curves of probabilities against masks: equal to counting voxel by voxel."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from strokeseg_tf.evaluation.probabilities import THRESHOLDS, ProbabilityCurves
from strokeseg_tf.evaluation.scores import scores


def study(seed, lesion=True):
    rng = np.random.default_rng(seed)
    probability = rng.beta(0.3, 1.5, (4, 9, 7)).astype(np.float32)
    reference = (rng.random(probability.shape) < probability) & lesion
    return probability, reference


@given(st.integers(0, 10_000))
def test_dice_is_that_of_the_mask_above_the_threshold(seed):
    probability, reference = study(seed)
    probability.flat[: len(THRESHOLDS)] = THRESHOLDS  # On the edge is not above.
    curves = ProbabilityCurves()
    curves.add(probability, reference)
    for threshold, dice in zip(THRESHOLDS, curves.summary(0.5)["dice"], strict=True):
        mask = probability > np.float32(threshold)
        assert dice == scores(reference, mask, (1, 1, 1))["dice"]


def test_means_over_studies_and_bins_over_all_voxels():
    studies = [study(seed) for seed in range(3)]
    curves = ProbabilityCurves()
    for probability, reference in studies:
        curves.add(probability, reference)
    summary = curves.summary(0.35)
    assert summary["chosen"] == 0.35 and summary["studies"] == 3
    middle = np.mean([scores(r, p > 0.5, (1, 1, 1))["dice"] for p, r in studies])
    assert summary["dice"][THRESHOLDS.index(0.5)] == pytest.approx(middle, abs=1e-12)
    assert max(summary["dice"]) == summary["dice"][THRESHOLDS.index(summary["best"])]
    probability = np.concatenate([p.ravel() for p, _ in studies])
    reference = np.concatenate([r.ravel() for _, r in studies])
    error = 0
    for row in summary["calibration"]:
        inside = (probability > row["low"]) & (probability <= row["high"])
        inside |= (row["low"] == 0) & (probability == 0)
        assert row["voxels"] == inside.sum()
        assert row["mean_probability"] == pytest.approx(probability[inside].mean(), rel=1e-5)
        assert row["lesion_share"] == pytest.approx(reference[inside].mean(), rel=1e-12)
        error += abs(reference[inside].mean() - probability[inside].mean()) * inside.mean()
    assert summary["expected_calibration_error"] == pytest.approx(error, rel=1e-4)


def test_a_control_answered_with_nothing_scores_what_the_convention_says():
    nothing = np.zeros((2, 3, 3), np.float32)
    curves, undefined = ProbabilityCurves(1.0), ProbabilityCurves(np.nan)
    for gathered in (curves, undefined):
        gathered.add(nothing, nothing > 0)
    assert curves.summary(0.5)["dice"] == [1.0] * len(THRESHOLDS)
    assert undefined.summary(0.5)["dice"] == [None] * len(THRESHOLDS)
    assert undefined.summary(0.5)["best"] is None
    assert curves.summary(0.5)["calibration"][5]["lesion_share"] is None
    assert curves.summary(0.5)["expected_calibration_error"] == 0


@pytest.mark.parametrize("value", [np.nan, 1.5, -0.1])
def test_what_is_no_probability_is_refused(value):
    with pytest.raises(ValueError, match="must lie in"):
        ProbabilityCurves().add(np.full((2, 2, 2), value), np.zeros((2, 2, 2), bool))


def test_shapes_must_be_equal():
    with pytest.raises(ValueError, match="one shape"):
        ProbabilityCurves().add(np.zeros((2, 2, 2)), np.zeros((2, 2, 3), bool))
