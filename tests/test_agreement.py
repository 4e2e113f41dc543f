"""Kappa against its definition and a table computed by hand; the bands' edges."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from strokeseg_tf.evaluation.agreement import cohen_kappa, landis_koch_band, rater_agreement

MASKS = arrays(bool, (2, 3, 4), elements=st.booleans())


def table_masks(both, only_a, only_b, neither):
    """Two masks whose 2 x 2 table has these counts."""
    a = np.repeat([1, 1, 0, 0], (both, only_a, only_b, neither)).astype(bool)
    b = np.repeat([1, 0, 1, 0], (both, only_a, only_b, neither)).astype(bool)
    return a.reshape(1, 1, -1), b.reshape(1, 1, -1)


def test_a_table_computed_by_hand():
    # 50 cases: p_o = 35/50 = 0.7; p_e = 0.5 * 0.6 + 0.5 * 0.4 = 0.5; kappa = 0.2 / 0.5 = 0.4.
    assert cohen_kappa(*table_masks(20, 5, 10, 15)) == pytest.approx(0.4, abs=1e-15)


@settings(max_examples=60, deadline=None)
@given(MASKS, MASKS)
def test_equals_its_definition_and_is_symmetric(a, b):
    observed = (a == b).mean()
    expected = a.mean() * b.mean() + (1 - a.mean()) * (1 - b.mean())
    if expected < 1:
        assert cohen_kappa(a, b) == pytest.approx((observed - expected) / (1 - expected))
    assert cohen_kappa(a, b) == cohen_kappa(b, a) == pytest.approx(cohen_kappa(~a, ~b))
    assert -1 <= cohen_kappa(a, b) <= cohen_kappa(a, a) == 1


@pytest.mark.parametrize("value", [False, True])
def test_two_constant_masks_agree_completely(value):
    mask = np.full((2, 2, 2), value)
    assert cohen_kappa(mask, mask) == 1


def test_empty_against_a_lesion_is_chance():
    lesion = np.zeros((5, 5, 5), bool)
    lesion[2, 2, 2] = True
    assert cohen_kappa(lesion, np.zeros_like(lesion)) == 0


@pytest.mark.parametrize(
    "bad", [np.zeros((2, 3, 5), bool), np.zeros((3, 4), bool), np.full((2, 3, 4), 0.5)]
)
def test_what_is_no_pair_of_masks_is_refused(bad):
    with pytest.raises(ValueError, match="Received"):
        cohen_kappa(np.zeros((2, 3, 4), bool), bad)


@pytest.mark.parametrize(
    ("kappa", "band"),
    [
        (-1, "poor"), (-1e-9, "poor"), (0, "slight"), (0.2, "slight"), (0.21, "fair"),
        (0.4, "fair"), (0.6, "moderate"), (0.65, "substantial"), (0.8, "substantial"),
        (0.81, "almost perfect"), (1.0, "almost perfect"),
    ],
)  # fmt: skip
def test_landis_and_koch_bands(kappa, band):
    assert landis_koch_band(kappa) == band


@pytest.mark.parametrize("kappa", [float("nan"), 1.01, -1.01])
def test_what_is_no_kappa_has_no_band(kappa):
    with pytest.raises(ValueError, match="Received"):
        landis_koch_band(kappa)


def test_every_pair_of_raters_on_every_modality():
    a, b = table_masks(20, 5, 10, 15)
    drawn = {("r2", "adc"): b, ("r1", "adc"): a, ("r3", "adc"): a, ("r1", "dwi"): a}
    rows = rater_agreement("s", drawn)
    assert [(row["modality"], row["raters"]) for row in rows] == [
        ("adc", ["r1", "r2"]), ("adc", ["r1", "r3"]), ("adc", ["r2", "r3"]),
    ]  # fmt: skip
    assert rows[0]["kappa"] == pytest.approx(0.4) and rows[0]["band"] == "fair"
    assert rows[1]["kappa"] == 1 and rows[1]["band"] == "almost perfect"
