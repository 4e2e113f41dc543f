"""Majority and STAPLE against counting, SimpleITK's printed results, and known raters."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from strokeseg_tf.evaluation.consensus import CONSENSUS, add_consensus, majority_vote, staple

MASKS = st.lists(arrays(bool, (2, 2, 4), elements=st.booleans()), min_size=2, max_size=5)
ROW_1 = [1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0]
ROW_2 = [1, 1, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0]
ROW_3 = [1, 1, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0]


def volumes(*rows):
    return [np.array([[row]]) for row in rows]


def known_raters(rates, seed=0):
    """A lesion and the masks of raters of known (sensitivity, specificity)."""
    rng = np.random.default_rng(seed)
    lesion = np.zeros((20, 40, 40), bool)
    lesion[:, 10:30] = True
    drawn = [
        np.where(lesion, rng.random(lesion.shape) < p, rng.random(lesion.shape) > q)
        for p, q in rates
    ]
    return lesion, drawn


@given(MASKS)
@settings(deadline=None)
def test_majority_is_more_than_half(masks):
    assert np.array_equal(majority_vote(masks), np.mean(masks, axis=0) > 0.5)


def test_a_tie_is_background():
    assert majority_vote(volumes([1, 1, 0], [1, 0, 0])).ravel().tolist() == [True, False, False]


def test_staple_equals_simpleitk_on_three_raters():
    """SimpleITK 2.5.7, STAPLEImageFilter run to convergence; it stops at 1e-7 or so."""
    found = staple(volumes(ROW_1, ROW_2, ROW_3))
    assert found.sensitivity == pytest.approx([0.75, 1.0, 0.75], abs=1e-7)
    assert found.specificity == pytest.approx([0.875, 1.0, 0.875], abs=1e-7)
    assert found.probability.ravel() == pytest.approx([1, 1, 1, 0, 1, *[0] * 7], abs=1e-7)
    assert found.mask.ravel().tolist() == [bool(value) for value in ROW_2]


def test_staple_equals_simpleitk_on_two_raters():
    found = staple(volumes(ROW_1, ROW_2))
    assert found.sensitivity == pytest.approx([0.8603799] * 2, abs=1e-6)
    assert found.specificity == pytest.approx([0.9301897] * 2, abs=1e-6)
    expected = [*[0.98700405] * 3, *[0.4805052] * 2, *[0.0111393] * 7]
    assert found.probability.ravel() == pytest.approx(expected, abs=2e-6)


def test_staple_finds_the_raters_and_beats_the_majority():
    # Half is lesion and raters err alike both ways: the share of drawn voxels is the true prior.
    rates = [(0.95, 0.95), (0.65, 0.65), (0.7, 0.7)]
    lesion, drawn = known_raters(rates)
    found = staple(drawn)
    assert np.transpose([found.sensitivity, found.specificity]) == pytest.approx(
        np.array(rates), abs=0.02
    )
    wrong = np.count_nonzero(found.mask != lesion)
    assert wrong < np.count_nonzero(majority_vote(drawn) != lesion)


def test_staple_of_raters_who_drew_all_but_one_voxel_is_a_number():
    masks = np.ones((9, 2, 2, 4), bool)
    masks[-1, 0, 0, 0] = False
    found = staple(list(masks))
    assert np.isfinite(found.probability).all() and found.mask.all()


@given(MASKS)
@settings(max_examples=30, deadline=None)
def test_staple_is_a_fixed_point_of_the_published_equations(masks):
    found = staple(masks)
    assert ((found.probability >= 0) & (found.probability <= 1)).all()
    drawn = np.array(masks).reshape(len(masks), -1)
    prior = drawn.mean()
    if 0 < prior < 1:
        p, q = found.sensitivity[:, None], found.specificity[:, None]
        a = prior * np.where(drawn, p, 1 - p).prod(axis=0)
        b = (1 - prior) * np.where(drawn, 1 - q, q).prod(axis=0)
        weight = a / (a + b)
        assert found.probability.ravel() == pytest.approx(weight, abs=1e-6)
        assert found.sensitivity == pytest.approx(drawn @ weight / weight.sum(), abs=1e-6)


@given(MASKS, st.randoms(use_true_random=False))
@settings(max_examples=15, deadline=None)
def test_the_order_of_the_raters_does_not_matter(masks, random):
    shuffled = random.sample(masks, len(masks))
    for method in CONSENSUS.values():
        assert np.array_equal(method(masks), method(shuffled))


@pytest.mark.parametrize("value", [False, True])
def test_raters_who_all_drew_nothing_or_everything(value):
    masks = [np.full((2, 3, 4), value)] * 3
    found = staple(masks)
    assert (found.mask == value).all() and (majority_vote(masks) == value).all()
    known, unknown = found.sensitivity, found.specificity
    known, unknown = (known, unknown) if value else (unknown, known)
    assert (known == 1).all() and np.isnan(unknown).all()


def test_raters_of_one_mind_are_their_consensus():
    mask = known_raters([(0.9, 0.99)])[1][0]
    for method in CONSENSUS.values():
        assert np.array_equal(method([mask, mask, mask]), mask)


@pytest.mark.parametrize(
    "masks",
    [
        [],
        [np.zeros((2, 3, 4)), np.zeros((2, 3, 5))],
        [np.full((2, 3, 4), 0.5), np.zeros((2, 3, 4))],
        [np.full((2, 3, 4), np.nan), np.zeros((2, 3, 4))],
    ],
)
def test_what_is_no_set_of_masks_is_refused(masks):
    for method in CONSENSUS.values():
        with pytest.raises(ValueError, match="Received"):
            method(masks)


@pytest.mark.parametrize("raters", [1, 21])
def test_one_rater_or_a_crowd_is_no_staple(raters):
    with pytest.raises(ValueError, match=f"2 to 20 masks. Received {raters}"):
        staple([np.zeros((2, 3, 4))] * raters)


def test_twenty_raters_are_not_too_many():
    lesion, drawn = known_raters([(0.7, 0.7)] * 20)
    found = staple(drawn)
    assert np.count_nonzero(found.mask != lesion) < 0.05 * lesion.size
    assert found.sensitivity == pytest.approx(np.full(20, 0.7), abs=0.03)


def test_a_consensus_is_one_rater_more_where_two_have_drawn():
    one, other, third = volumes(ROW_1, ROW_2, ROW_3)
    drawn = {("r2", "adc"): other, ("r1", "adc"): one, ("r3", "adc"): third, ("r1", "dwi"): one}
    added = add_consensus(drawn, "majority")
    assert set(added) - set(drawn) == {("majority", "adc")}
    assert np.array_equal(added["majority", "adc"], majority_vote([one, other, third]))


@pytest.mark.parametrize(
    ("rater", "method", "words"),
    [("r1", "average", "majority, staple.*average"), ("staple", "staple", "may be called")],
)
def test_an_unknown_consensus_or_a_name_taken_is_refused(rater, method, words):
    with pytest.raises(ValueError, match=words):
        add_consensus({(rater, "adc"): np.zeros((2, 3, 4))}, method)
