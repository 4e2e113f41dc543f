"""Segmentation scores of one predicted mask against one reference mask.

R and P are the sets of lesion voxels of reference and prediction, spacing is in mm. Everything
works on plain numpy arrays; TensorFlow is not needed.

Voxels    Dice 2|R & P| / (|R| + |P|), precision |R & P| / |P|, sensitivity |R & P| / |R|.
Volumes   voxel count times the product of the spacing, in ml; the difference is absolute.
Lesions   connected components. The count difference is absolute. A reference lesion that matches a
          predicted one is found (tp, else fn); a predicted lesion that matches none is an fp.
          F1 = tp / (tp + (fp + fn) / 2).
Surfaces  S(M): voxels of M with at least one of their 6 face neighbours outside M; beyond the image
          counts as outside. d(a, B): distance in mm from the centre of voxel a to the nearest voxel
          centre in S(B). HD95 is the larger of the two directed 95th percentiles (linear
          interpolation) of d; ASSD is the mean of d over S(R) and S(P) together.
          Both are NaN where either mask is empty, under every convention.

What an empty mask scores for the rest, what is connected and what matches is the choice of a
`strokeseg_tf.evaluation.conventions.Convention`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import isfinite, nan, prod

import cc3d
import numpy as np
from numpy.typing import ArrayLike

from strokeseg_tf.evaluation.conventions import CONVENTIONS, Convention, find_convention
from strokeseg_tf.evaluation.surfaces import surface_distances

__all__ = ["CONVENTIONS", "METRICS", "SCORE_KEYS", "as_mask", "find_convention", "scores"]


def scores(
    reference: ArrayLike,
    prediction: ArrayLike,
    spacing_mm: Sequence[float],
    convention: str = "isles22",
    *,
    keys: Sequence[str] | None = None,
) -> dict[str, float]:
    """Scores a predicted lesion mask against a reference mask.

    Args:
        reference: 3-D mask, bool or numbers that are exactly 0 and 1, any axis order.
        prediction: mask of the same shape and axis order.
        spacing_mm: voxel size in mm along the three axes of the arrays, in their order.
        convention: key of `CONVENTIONS`.
        keys: which of `SCORE_KEYS` to compute, all by default.

    Returns:
        The scores in the order of `keys`: `dice`, `precision`, `sensitivity`, `lesion_f1` in
        [0, 1]; `lesion_count_difference` a whole number >= 0; volumes in ml, `hd95_mm` and
        `assd_mm` in mm. NaN where the convention leaves a score undefined.

    Raises:
        ValueError: unknown convention or key; masks not 3-D, not of one shape, or with anything
            but 0 and 1 (NaN, probabilities); spacing other than three positive numbers.
    """
    keys = SCORE_KEYS if keys is None else keys
    unknown = sorted(set(keys) - set(SCORE_KEYS))
    if unknown:
        raise ValueError(
            f"keys must be among {', '.join(SCORE_KEYS)}. Received {', '.join(unknown)}."
        )
    pair = _pair(reference, prediction, spacing_mm, convention)
    return {key: float(METRICS[key](pair)) for key in keys}


@dataclass(frozen=True)
class _Pair:
    """Two masks, bool and equal in shape: the box around their union in a rim of background."""

    reference: np.ndarray
    prediction: np.ndarray
    spacing_mm: tuple[float, ...]
    convention: Convention

    @cached_property
    def both(self) -> np.ndarray:
        return self.reference & self.prediction

    @cached_property
    def counts(self) -> tuple[int, int, int]:
        """Voxels in the reference, in the prediction and in both."""
        masks = (self.reference, self.prediction, self.both)
        return tuple(int(np.count_nonzero(mask)) for mask in masks)

    @cached_property
    def lesions(self) -> tuple[int, int, int, int]:
        """Reference lesions, those that match; predicted lesions, those that match."""
        masks, connectivity = (self.reference, self.prediction), self.convention.connectivity
        # The rim counts here too: on boxes one voxel wide cc3d 4.1.1 raises or miscounts.
        labels = [cc3d.connected_components(mask, connectivity=connectivity) for mask in masks]
        sizes = [
            np.bincount(label[mask], minlength=1) for label, mask in zip(labels, masks, strict=True)
        ]
        n_reference, n_predicted = (len(voxels) - 1 for voxels in sizes)
        shared = [label[self.both].astype(np.int64) for label in labels]
        codes, overlaps = np.unique(shared[0] * (n_predicted + 1) + shared[1], return_counts=True)
        lesions, guesses = np.divmod(codes, n_predicted + 1)
        unions = sizes[0][lesions] + sizes[1][guesses] - overlaps
        match = overlaps >= self.convention.lesion_iou * unions
        found, true = len(np.unique(lesions[match])), len(np.unique(guesses[match]))
        return n_reference, found, n_predicted, true

    @cached_property
    def distances(self) -> tuple[np.ndarray, np.ndarray]:
        """d(S(R), P) and d(S(P), R) in mm, 1-D; no elements where either mask is empty."""
        return surface_distances(self.reference, self.prediction, self.spacing_mm)


def _pair(
    reference: ArrayLike, prediction: ArrayLike, spacing_mm: Sequence[float], convention: str
) -> _Pair:
    """Checks the arguments of `scores` and crops: outside the union's box nothing counts."""
    reference, prediction = as_mask(reference, "reference"), as_mask(prediction, "prediction")
    shapes = reference.shape, prediction.shape
    if shapes[0] != shapes[1]:
        raise ValueError(f"reference and prediction must have one shape. Received {shapes}.")
    spacing = tuple(map(float, spacing_mm))
    if len(spacing) != 3 or not all(isfinite(size) and size > 0 for size in spacing):
        raise ValueError(f"spacing_mm must be three positive numbers. Received {spacing_mm}.")
    box = _box(reference | prediction)
    return _Pair(_cut(reference, box), _cut(prediction, box), spacing, find_convention(convention))


def as_mask(array: ArrayLike, name: str) -> np.ndarray:
    """Returns a 3-D array of 0 and 1 as bool.

    Raises:
        ValueError: not 3-D, no voxels, NaN, or a value other than 0 and 1.
    """
    array = np.asarray(array)
    if array.ndim != 3 or array.size == 0:
        raise ValueError(f"{name} must be a 3-D mask with voxels. Received shape {array.shape}.")
    if array.dtype == bool:
        return array
    if array.dtype.kind not in "iuf":
        raise ValueError(f"{name} must be bool or 0/1 numbers. Received dtype {array.dtype}.")
    if np.isnan(array).any():
        raise ValueError(f"{name} must not hold NaN. Received {np.isnan(array).sum()} of them.")
    mask = array.astype(bool)
    foreign = array[array != mask]
    if foreign.size:
        raise ValueError(
            f"{name} must hold only 0 and 1: threshold probabilities first. "
            f"Received a voxel of {foreign[0]}."
        )
    return mask


def _box(mask: np.ndarray) -> tuple[slice, ...]:
    """Smallest box around a mask; the first voxel for an empty one, so that nothing is 0-sized."""
    # The first axis goes first: whole planes at once, which is fast in either memory order.
    plane = mask.any(axis=0)
    across = _span(plane.any(axis=1)), _span(plane.any(axis=0))
    return _span(mask[(slice(None), *across)].any(axis=(1, 2))), *across


def _span(hits: np.ndarray) -> slice:
    """From the first True to the last; the first element where there is none."""
    places = np.flatnonzero(hits)
    return slice(places[0], places[-1] + 1) if places.size else slice(0, 1)


def _cut(mask: np.ndarray, box: tuple[slice, ...]) -> np.ndarray:
    """The box of a mask, C-contiguous, in a rim of background one voxel wide."""
    cut = np.zeros([part.stop - part.start + 2 for part in box], bool)
    cut[1:-1, 1:-1, 1:-1] = mask[box]
    return cut


def _ratio(overlap: int, size: int, other_size: int, convention: Convention) -> float:
    if size:
        return overlap / size
    return convention.ratio_one_empty if other_size else convention.ratio_both_empty


def _dice(pair: _Pair) -> float:
    reference, predicted, both = pair.counts
    total = reference + predicted
    return 2 * both / total if total else pair.convention.dice_both_empty


def _precision(pair: _Pair) -> float:
    reference, predicted, both = pair.counts
    return _ratio(both, predicted, reference, pair.convention)


def _sensitivity(pair: _Pair) -> float:
    reference, predicted, both = pair.counts
    return _ratio(both, reference, predicted, pair.convention)


def _lesion_count_difference(pair: _Pair) -> float:
    reference, _, predicted, _ = pair.lesions
    return abs(reference - predicted)


def _lesion_f1(pair: _Pair) -> float:
    reference, found, predicted, touching = pair.lesions
    if not reference + predicted:
        return pair.convention.lesion_f1_both_empty
    missed, invented = reference - found, predicted - touching
    return found / (found + (invented + missed) / 2)


def _hd95_mm(pair: _Pair) -> float:
    outward, inward = pair.distances
    return max(np.percentile(outward, 95), np.percentile(inward, 95)) if outward.size else nan


def _assd_mm(pair: _Pair) -> float:
    distances = np.concatenate(pair.distances)
    return distances.mean() if distances.size else nan


def _volume_ml(voxels: int, pair: _Pair) -> float:
    return voxels * prod(pair.spacing_mm) / 1000


METRICS: dict[str, Callable[[_Pair], float]] = {
    "dice": _dice,
    "precision": _precision,
    "sensitivity": _sensitivity,
    "absolute_volume_difference_ml": lambda p: _volume_ml(abs(p.counts[0] - p.counts[1]), p),
    "lesion_count_difference": _lesion_count_difference,
    "lesion_f1": _lesion_f1,
    "hd95_mm": _hd95_mm,
    "assd_mm": _assd_mm,
    "reference_volume_ml": lambda p: _volume_ml(p.counts[0], p),
    "predicted_volume_ml": lambda p: _volume_ml(p.counts[1], p),
}
SCORE_KEYS: tuple[str, ...] = tuple(METRICS)
