"""Kappa against scikit-learn and by hand, the bands' edges, all comparisons and their summary."""

import json
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import cohen_kappa_score

from strokeseg_tf.evaluation.agreement import (
    BANDS,
    cohen_kappa,
    landis_koch_band,
    study_agreement,
    summarise_agreement,
    without_shared_masks,
)
from strokeseg_tf.evaluation.reliability import bland_altman, icc_absolute_agreement
from strokeseg_tf.evaluation.scores import scores

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


@settings(max_examples=25, deadline=None)
@given(MASKS, MASKS)
def test_equals_scikit_learn(a, b):
    if 0 < a.mean() + b.mean() < 2:  # Its kappa of two constant masks is 0 / 0.
        expected = cohen_kappa_score(a.ravel(), b.ravel())
        assert cohen_kappa(a, b) == pytest.approx(expected, abs=1e-12)


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


SPACING = (6.0, 0.9, 0.8)
RATERS, MODALITIES = ("r1", "r2", "r3"), ("adc", "dwi")


def draw(seed, raters=RATERS, modalities=MODALITIES, share=0.4):
    """Masks that share a core, by (rater, modality)."""
    rng = np.random.default_rng(seed)
    core = rng.random((4, 9, 8)) < share
    return {
        (rater, modality): core ^ (rng.random(core.shape) < 0.1)
        for rater in raters
        for modality in modalities
    }


def test_every_pair_of_raters_and_of_modalities():
    rows = study_agreement("s", "stroke", draw(0), SPACING)
    pairs = [list(pair) for pair in combinations(RATERS, 2)]
    expected = [("raters", m, None, pair) for m in MODALITIES for pair in pairs]
    expected += [("modalities", None, rater, ["adc", "dwi"]) for rater in RATERS]
    assert [(r["kind"], r["modality"], r["rater"], r["pair"]) for r in rows] == expected


def test_rows_hold_what_the_scores_say():
    masks = draw(1)
    for row in study_agreement("s", "stroke", masks, SPACING):
        if row["kind"] == "raters":
            one, other = (masks[rater, row["modality"]] for rater in row["pair"])
        else:
            one, other = (masks[row["rater"], modality] for modality in row["pair"])
        expected = scores(one, other, SPACING)
        assert row["dice"] == expected["dice"]
        assert row["first_volume_ml"] == pytest.approx(expected["reference_volume_ml"])
        assert row["second_volume_ml"] == pytest.approx(expected["predicted_volume_ml"])
        assert row["kappa"] == cohen_kappa(one, other)
        assert row["band"] == landis_koch_band(row["kappa"])
        assert (row["study"], row["group"]) == ("s", "stroke")


def test_the_order_of_the_masks_does_not_matter():
    masks = draw(2)
    turned = dict(reversed(masks.items()))
    rows = study_agreement("s", "stroke", masks, SPACING)
    assert study_agreement("s", "stroke", turned, SPACING) == rows


def test_a_consensus_comes_after_the_raters():
    rows = study_agreement("s", "stroke", draw(0, ("majority", "r1", "r2")), SPACING)
    assert [row["pair"] for row in rows if row["modality"] == "adc"] == [
        ["r1", "r2"], ["r1", "majority"], ["r2", "majority"],
    ]  # fmt: skip
    titles = [entry["title"] for entry in summarise_agreement(rows)]
    assert titles[1] == "R1 and majority on ADC" and titles[-1] == "ADC and DWI by majority"


def test_what_cannot_be_compared_gives_no_row():
    assert study_agreement("s", "stroke", {}, SPACING) == []
    assert study_agreement("s", "stroke", draw(0, ("r1",), ("adc",)), SPACING) == []
    apart = {("r1", "adc"): np.ones((2, 2, 2)), ("r2", "dwi"): np.ones((2, 2, 2))}
    assert study_agreement("s", "stroke", apart, SPACING) == []


def test_empty_masks_agree_and_one_empty_mask_is_chance():
    lesion = np.zeros((3, 3, 3), bool)
    lesion[1, 1, 1] = True
    empty = np.zeros_like(lesion)
    masks = {("r1", "adc"): empty, ("r2", "adc"): empty, ("r3", "adc"): lesion}
    both, one, _ = study_agreement("s", "control", masks, SPACING)
    assert (both["kappa"], both["dice"], both["band"]) == (1, 1, "almost perfect")
    assert (one["kappa"], one["dice"], one["band"]) == (0, 0, "slight")


def test_masks_of_two_shapes_are_refused():
    masks = {("r1", "adc"): np.zeros((2, 2, 2)), ("r2", "adc"): np.zeros((2, 2, 3))}
    with pytest.raises(ValueError, match="one shape"):
        study_agreement("s", "stroke", masks, SPACING)


def cohort(raters=("r1", "r2")):
    """Six stroke studies and two controls, in one of which r2 marked ADC."""
    rows = []
    for seed in range(6):
        masks = draw(seed, raters, share=0.05 + 0.1 * seed)
        rows += study_agreement(f"s{seed}", "stroke", masks, SPACING)
    empty = {key: np.zeros((4, 9, 8), bool) for key in draw(0, raters)}
    rows += study_agreement("c1", "control", empty, SPACING)
    marked = empty | {("r2", "adc"): draw(0)["r2", "adc"]}
    return rows + study_agreement("c2", "control", marked, SPACING)


def test_a_summary_is_over_stroke_studies_with_the_controls_apart():
    rows = cohort()
    summary = summarise_agreement(rows)
    assert [entry["title"] for entry in summary] == [
        "R1 and R2 on ADC", "R1 and R2 on DWI", "ADC and DWI by R1", "ADC and DWI by R2",
    ]  # fmt: skip
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    for entry in summary:
        labels = ("kind", "modality", "rater", "pair")
        pool = [row for row in rows if all(row[name] == entry[name] for name in labels)]
        stroke = [row for row in pool if row["group"] == "stroke"]
        for part, chosen in ((entry, stroke), (entry["all"], pool)):
            assert part["studies"] == len(chosen) == sum(part["bands"].values())
            assert tuple(part["bands"]) == BANDS
            for name in ("kappa", "dice"):
                values = [row[name] for row in chosen]
                assert part[name]["mean"] == pytest.approx(np.mean(values))
                assert part[name]["sd"] == pytest.approx(np.std(values, ddof=1))
                assert part[name]["median"] == pytest.approx(np.median(values))
        volumes = [(row["first_volume_ml"], row["second_volume_ml"]) for row in stroke]
        assert entry["icc"] == icc_absolute_agreement(volumes)
        assert entry["volume_bland_altman"] == bland_altman(*np.transpose(volumes))
        assert entry["controls"]["studies"] == 2 and entry["both_empty"] == 0
    assert [entry["controls"]["marked"] for entry in summary] == [["c2"], [], [], ["c2"]]


def test_a_summary_of_controls_alone_says_nothing_of_stroke():
    rows = [row for row in cohort() if row["group"] == "control"]
    for entry in summarise_agreement(rows):
        assert entry["studies"] == 0 and entry["all"]["studies"] == 2
        assert entry["kappa"] == entry["dice"] == {"mean": None, "sd": None, "median": None}
        assert entry["icc"]["value"] is None and entry["volume_bland_altman"]["n"] == 0


def test_a_study_of_a_group_unknown_counts_as_stroke():
    rows = study_agreement("s", "unknown", draw(0), SPACING)
    assert summarise_agreement(rows)[0]["studies"] == 1


def test_one_mask_for_both_modalities_is_not_compared_with_itself():
    rows = cohort()
    for seed in range(3):
        mask = draw(seed)["r1", "adc"]
        masks = {("r9", "adc"): mask, ("r9", "dwi"): mask.copy()}
        rows += study_agreement(f"s{seed}", "stroke", masks, SPACING)
    kept, shared = without_shared_masks(rows)
    assert shared == ["r9"] and kept == cohort()


def test_masks_that_are_always_empty_or_once_differ_are_compared():
    empty = {key: np.zeros((2, 3, 4), bool) for key in draw(0, ("r1",))}
    rows = study_agreement("c", "control", empty, SPACING)
    assert without_shared_masks(rows) == (rows, [])
    same = {key: draw(0)["r1", "adc"] for key in empty}
    rows = study_agreement("a", "stroke", same, SPACING)
    rows += study_agreement("b", "stroke", draw(1, ("r1",)), SPACING)
    assert without_shared_masks(rows) == (rows, [])
