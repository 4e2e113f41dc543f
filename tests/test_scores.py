"""Scores against plain-numpy definitions, laws, hand-computed masks and published numbers."""

import os
from itertools import product
from math import isnan, sqrt
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from strokeseg_tf.evaluation.scores import CONVENTIONS, SCORE_KEYS, scores

SHAPE = (4, 5, 6)
MASKS = arrays(bool, SHAPE, elements=st.booleans())
SPACINGS = st.tuples(*[st.floats(0.3, 8)] * 3)
COLUMNS = (
    "dice", "precision", "sensitivity", "absolute_volume_difference_ml",
    "lesion_count_difference", "lesion_f1", "hd95_mm", "assd_mm", "reference_volume_ml",
    "predicted_volume_ml",
)  # fmt: skip


def voxels(*places, shape=SHAPE):
    mask = np.zeros(shape, bool)
    for place in places:
        mask[place] = True
    return mask


# The same definitions a second time, as slow and plain as can be: sets of voxel tuples.


def plain_components(mask):
    """26-connected components by flooding, as sets of voxels."""
    left, found = set(map(tuple, np.argwhere(mask))), []
    while left:
        lesion, front = set(), [left.pop()]
        while front:
            voxel = front.pop()
            lesion.add(voxel)
            around = {tuple(np.add(voxel, step)) for step in product((-1, 0, 1), repeat=3)}
            front += around & left
            left -= around
        found.append(lesion)
    return found


def plain_surface(mask):
    inside = set(map(tuple, np.argwhere(mask)))
    steps = [tuple(sign * row) for row in np.eye(3, dtype=int) for sign in (1, -1)]
    return [v for v in inside if any(tuple(np.add(v, step)) not in inside for step in steps)]


def plain_distances(mask, other, spacing):
    places = np.array(plain_surface(mask)) * spacing
    others = np.array(plain_surface(other)) * spacing
    return np.sqrt(((places[:, None] - others[None]) ** 2).sum(-1)).min(1)


def plain_scores(reference, prediction, spacing):
    """All ten scores for two masks that are not empty."""
    r, p = set(map(tuple, np.argwhere(reference))), set(map(tuple, np.argwhere(prediction)))
    lesions, guesses = plain_components(reference), plain_components(prediction)
    tp = sum(bool(lesion & p) for lesion in lesions)
    fp = sum(not guess & r for guess in guesses)
    out = plain_distances(reference, prediction, spacing)
    back = plain_distances(prediction, reference, spacing)
    ml = spacing[0] * spacing[1] * spacing[2] / 1000
    return {
        "dice": 2 * len(r & p) / (len(r) + len(p)),
        "precision": len(r & p) / len(p),
        "sensitivity": len(r & p) / len(r),
        "absolute_volume_difference_ml": abs(len(r) - len(p)) * ml,
        "lesion_count_difference": abs(len(lesions) - len(guesses)),
        "lesion_f1": tp / (tp + (fp + len(lesions) - tp) / 2),
        "hd95_mm": max(np.percentile(out, 95), np.percentile(back, 95)),
        "assd_mm": (out.sum() + back.sum()) / (len(out) + len(back)),
        "reference_volume_ml": len(r) * ml,
        "predicted_volume_ml": len(p) * ml,
    }


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), share=st.floats(0.02, 0.6), spacing=SPACINGS)
def test_equals_the_plain_definitions(seed, share, spacing):
    # Any density, and always at least a voxel: empty masks have tests of their own.
    reference, prediction = np.random.default_rng(seed).random((2, *SHAPE)) < share
    reference[0, 0, 0] = prediction[1, 2, 3] = True
    expected = plain_scores(reference, prediction, spacing)
    assert scores(reference, prediction, spacing) == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_keys_and_their_order():
    measured = scores(voxels((0, 0, 0)), voxels((0, 0, 0)), (1, 1, 1))
    assert tuple(measured) == SCORE_KEYS == COLUMNS
    assert all(type(value) is float for value in measured.values())


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_a_perfect_prediction(convention):
    mask = voxels((0, 0, 0), (3, 4, 5), (2, 2, slice(1, 4)))
    measured = scores(mask, mask, (5, 1, 1), convention)
    ones = {"dice", "precision", "sensitivity", "lesion_f1"}
    volumes = {"reference_volume_ml": 0.025, "predicted_volume_ml": 0.025}
    rest = dict.fromkeys(set(SCORE_KEYS) - ones - set(volumes), 0.0)
    assert measured == pytest.approx({**dict.fromkeys(ones, 1.0), **volumes, **rest})


def test_a_mask_computed_by_hand():
    # Reference: a bar of 3 and a lone voxel. Prediction: 2 of the bar and, far off, 2 lone voxels.
    reference = voxels((0, 0, slice(0, 3)), (3, 4, 5))
    prediction = voxels((0, 0, slice(0, 2)), (0, 4, 5), (3, 0, 5))
    measured = scores(reference, prediction, (5.0, 2.0, 1.0))
    assert measured["dice"] == 2 * 2 / (4 + 4)
    assert measured["precision"] == measured["sensitivity"] == 0.5
    assert measured["absolute_volume_difference_ml"] == 0
    assert measured["lesion_count_difference"] == 1
    assert measured["lesion_f1"] == 1 / (1 + (2 + 1) / 2)
    assert measured["reference_volume_ml"] == pytest.approx(0.04)
    # Reference to prediction 0, 0, 1 and 8 mm; prediction to reference 0, 0, 15 and sqrt(15^2+3^2)
    # or the lone voxel's 8 mm: (0,4,5) lies 15 mm from it and sqrt(8^2+3^2) from the bar.
    back = sorted([0, 0, sqrt(8**2 + 3**2), 8])
    assert measured["assd_mm"] == pytest.approx((0 + 0 + 1 + 8 + sum(back)) / 8)
    assert measured["hd95_mm"] == pytest.approx(back[2] + (back[3] - back[2]) * (0.95 * 3 - 2))


@pytest.mark.parametrize("step", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (1, 1, 1)])
def test_voxels_that_share_a_face_an_edge_or_a_corner_are_one_lesion(step):
    # With the gap along one axis the union's box is a line, on which bare cc3d 4.1.1 goes wrong.
    pair, lone = voxels((0, 0, 0), step), voxels((0, 0, 0))
    assert scores(lone, pair, (1, 1, 1))["lesion_count_difference"] == 0
    gap = voxels((0, 0, 0), tuple(2 * s for s in step))
    assert scores(lone, gap, (1, 1, 1))["lesion_count_difference"] == 1


def test_one_predicted_voxel_finds_two_lesions_only_if_it_touches_both():
    two = voxels((0, 0, 0), (0, 0, 4))
    bridge = voxels((0, 0, slice(0, 5)))
    assert scores(two, bridge, (1, 1, 1))["lesion_f1"] == 1
    assert scores(two, voxels((0, 0, 0)), (1, 1, 1))["lesion_f1"] == 1 / 1.5


def test_the_edge_of_the_image_is_surface():
    full = np.ones((3, 3, 3), bool)
    middle = voxels((1, 1, 1), shape=(3, 3, 3))
    # The centre voxel of a full cube is no surface, so the nearest one to it is 1 voxel off.
    measured = scores(full, middle, (2.0, 3.0, 4.0))
    # 26 surface voxels at 2, 3, 4 mm and their diagonals; the farthest 8, the corners, fill the
    # last 31 % of them. The other way, from the centre to the nearest face, it is 2 mm.
    assert measured["hd95_mm"] == pytest.approx(sqrt(2**2 + 3**2 + 4**2))
    faces = [2, 3, 4] * 2
    edges = [sqrt(13), sqrt(20), 5] * 4
    assert measured["assd_mm"] == pytest.approx((sum(faces + edges) + 8 * sqrt(29) + 2) / 27)


EMPTY, SOME, OTHER = voxels(), voxels((1, 1, 1)), voxels((2, 3, 4))


@pytest.mark.parametrize(
    ("convention", "reference", "prediction", "expected"),
    [
        ("isles22", EMPTY, EMPTY, (1, 1, 1, 1)),
        ("isles22", EMPTY, SOME, (0, 0, 0, 0)),
        ("isles22", SOME, EMPTY, (0, 0, 0, 0)),
        ("paper", EMPTY, EMPTY, (1, 0, 0, 1)),
        ("paper", EMPTY, SOME, (0, 0, 0, 0)),
        ("paper", SOME, EMPTY, (0, 0, 0, 0)),
        ("nnunet", EMPTY, EMPTY, (np.nan, np.nan, np.nan, np.nan)),
        ("nnunet", EMPTY, SOME, (0, 0, np.nan, 0)),
        ("nnunet", SOME, EMPTY, (0, np.nan, 0, 0)),
    ],
)
def test_empty_masks_under_each_convention(convention, reference, prediction, expected):
    measured = scores(reference, prediction, (1, 1, 1), convention)
    ratios = [measured[key] for key in ("dice", "precision", "sensitivity", "lesion_f1")]
    assert ratios == pytest.approx(list(expected), nan_ok=True)
    assert isnan(measured["hd95_mm"]) and isnan(measured["assd_mm"])
    count = abs(int(reference.any()) - int(prediction.any()))
    assert measured["lesion_count_difference"] == count
    assert measured["absolute_volume_difference_ml"] == pytest.approx(count / 1000)


def test_conventions_agree_where_nothing_is_empty():
    everything = [scores(SOME | OTHER, SOME, (2, 1, 1), name) for name in CONVENTIONS]
    assert all(measured == everything[0] for measured in everything)


@settings(max_examples=40, deadline=None)
@given(reference=MASKS, prediction=MASKS, spacing=SPACINGS)
def test_symmetry_and_bounds(reference, prediction, spacing):
    there, back = scores(reference, prediction, spacing), scores(prediction, reference, spacing)
    same = set(SCORE_KEYS) - {"precision", "sensitivity", "lesion_f1"}
    same -= {"reference_volume_ml", "predicted_volume_ml"}
    for key in same:
        assert there[key] == pytest.approx(back[key], nan_ok=True)
    assert there["precision"] == back["sensitivity"]
    for key in ("dice", "precision", "sensitivity", "lesion_f1"):
        assert 0 <= there[key] <= 1
    assert all(value >= 0 or isnan(value) for value in there.values())


@settings(max_examples=25, deadline=None)
@given(reference=MASKS, prediction=MASKS, shift=st.tuples(*[st.integers(0, 3)] * 3))
def test_moving_both_masks_changes_nothing(reference, prediction, shift):
    def moved(mask):
        # Padded before and after: lesions keep clear of the edge at either place.
        return np.pad(mask, [(1 + by, 4 - by) for by in shift])

    at_rest = scores(np.pad(reference, 1), np.pad(prediction, 1), (6, 0.9, 0.8))
    assert scores(moved(reference), moved(prediction), (6, 0.9, 0.8)) == pytest.approx(
        at_rest, nan_ok=True
    )


@settings(max_examples=25, deadline=None)
@given(reference=MASKS, prediction=MASKS, axes=st.permutations(range(3)))
def test_axis_order_does_not_matter(reference, prediction, axes):
    spacing = (6.0, 0.9, 0.8)
    turned = scores(
        reference.transpose(axes), prediction.transpose(axes), [spacing[axis] for axis in axes]
    )
    assert turned == pytest.approx(scores(reference, prediction, spacing), nan_ok=True)


@settings(max_examples=25, deadline=None)
@given(reference=MASKS, prediction=MASKS, factor=st.floats(0.2, 5))
def test_spacing_scales_lengths_once_and_volumes_three_times(reference, prediction, factor):
    base = scores(reference, prediction, (3, 1, 2))
    scaled = scores(reference, prediction, (3 * factor, factor, 2 * factor))
    for key, value in base.items():
        power = 3 if key.endswith("_ml") else 1 if key.endswith("_mm") else 0
        assert scaled[key] == pytest.approx(value * factor**power, nan_ok=True)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_zeros_and_ones_of_any_type_are_masks(dtype):
    mask = SOME | OTHER
    assert scores(mask.astype(dtype), SOME.astype(dtype), (1, 2, 3)) == scores(
        mask, SOME, (1, 2, 3)
    )


def test_inputs_are_left_alone():
    reference, prediction = SOME.copy(), OTHER.copy()
    scores(reference, prediction, (1, 1, 1))
    assert (reference == SOME).all() and (prediction == OTHER).all()


@pytest.mark.parametrize(
    ("reference", "prediction", "spacing", "message"),
    [
        (SOME, np.zeros((4, 5, 7), bool), (1, 1, 1), "one shape"),
        (SOME[0], SOME[0], (1, 1, 1), "3-D"),
        (SOME[:0], SOME[:0], (1, 1, 1), "with voxels"),
        (SOME, np.where(SOME, np.nan, 0), (1, 1, 1), "NaN"),
        (SOME, np.where(SOME, 0.7, 0.1), (1, 1, 1), "threshold"),
        (SOME, SOME * 2, (1, 1, 1), "only 0 and 1"),
        (SOME, SOME * 0.99999999977, (1, 1, 1), "only 0 and 1"),
        (SOME, SOME.astype(str), (1, 1, 1), "0/1 numbers"),
        (SOME, SOME, (1, 1), "spacing_mm"),
        (SOME, SOME, (1, 0, 1), "spacing_mm"),
        (SOME, SOME, (1, np.nan, 1), "spacing_mm"),
    ],
)
def test_what_is_no_pair_of_masks_is_refused(reference, prediction, spacing, message):
    with pytest.raises(ValueError, match=f"{message}.*Received"):
        scores(reference, prediction, spacing)


def test_an_unknown_convention_names_the_known():
    with pytest.raises(ValueError, match="isles22, paper, nnunet.*Received 'isles99'"):
        scores(SOME, SOME, (1, 1, 1), "isles99")


def test_published_numbers_of_isles22_case_0009():
    if "STROKESEG_TEST_DATA" not in os.environ:
        pytest.skip("STROKESEG_TEST_DATA is not set to the folder that holds isles22/")
    nibabel = pytest.importorskip("nibabel")
    folder, case = Path(os.environ["STROKESEG_TEST_DATA"]) / "isles22", "sub-strokecase0009"
    names = ("rawdata", "dwi"), ("derivatives", "msk")
    dwi, mask = (
        nibabel.load(folder / part / case / "ses-0001" / f"{case}_ses-0001_{kind}.nii.gz")
        for part, kind in names
    )
    image = dwi.get_fdata()
    prediction = image > np.percentile(image[image > 0], 99)
    measured = scores(mask.get_fdata() > 0.5, prediction, mask.header.get_zooms())
    assert measured["dice"] == 0.1738013698630137
    assert measured["absolute_volume_difference_ml"] == pytest.approx(10.32, abs=1e-12)
    assert measured["lesion_count_difference"] == 87
    assert measured["lesion_f1"] == 0.24793388429752067
