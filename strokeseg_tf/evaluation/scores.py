"""Segmentation scores of one predicted mask against one reference mask.

R and P are the sets of lesion voxels of reference and prediction, spacing is in mm. Everything
works on plain numpy arrays; TensorFlow is not needed.

Voxels    Dice 2|R & P| / (|R| + |P|), precision |R & P| / |P|, sensitivity |R & P| / |R|.
Volumes   voxel count times the product of the spacing, in ml; the difference is absolute.
Lesions   components with 26-connectivity. The count difference is absolute. A reference lesion is
          found (tp, else fn) when one of its voxels is predicted; a predicted lesion that touches
          no reference voxel is an fp. F1 = tp / (tp + (fp + fn) / 2); no one-to-one matching.
Surfaces  S(M): voxels of M with at least one of their 6 face neighbours outside M; beyond the image
          counts as outside. d(a, B): distance in mm from the centre of voxel a to the nearest voxel
          centre in S(B). HD95 is the larger of the two directed 95th percentiles (linear
          interpolation) of d; ASSD is the mean of d over S(R) and S(P) together.
          Both are NaN where either mask is empty, under every convention.

What an empty mask scores for the rest is the choice of a `Convention`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import isfinite, nan, prod

import cc3d
import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial import cKDTree


@dataclass(frozen=True)
class Convention:
    """What the ratios score where they would be 0/0, and the connectivity of a lesion.

    Attributes:
        name: key in `CONVENTIONS`.
        description: one sentence for reports.
        dice_both_empty: Dice of an empty prediction on an empty reference.
        lesion_f1_both_empty: lesion-wise F1 in that same case.
        ratio_both_empty: precision and sensitivity in that same case.
        ratio_one_empty: precision of an empty prediction on a lesion, and sensitivity of a
            prediction where the reference is empty. (Dice and F1 are 0 there by formula.)
        connectivity: 6, 18 or 26 neighbours join voxels to one lesion.
    """

    name: str
    description: str
    dice_both_empty: float
    lesion_f1_both_empty: float
    ratio_both_empty: float
    ratio_one_empty: float
    connectivity: int = 26


_SURFACES = "HD95 and ASSD are undefined (left out of means) where either mask is empty."

CONVENTIONS: dict[str, Convention] = {
    "isles22": Convention(
        "isles22",
        "ISLES'22 challenge: reference and prediction both empty score 1 in Dice, precision, "
        f"sensitivity and lesion F1, one of them empty scores 0; 26-connected lesions. {_SURFACES}",
        dice_both_empty=1.0,
        lesion_f1_both_empty=1.0,
        ratio_both_empty=1.0,
        ratio_one_empty=0.0,
    ),
    "paper": Convention(
        "paper",
        "As the paper's authors computed it: reference and prediction both empty score Dice 1 but "
        "precision 0 and sensitivity 0 (lesion F1, which they do not report, 1 as in ISLES'22); "
        f"one of them empty scores 0; 26-connected lesions. {_SURFACES}",
        dice_both_empty=1.0,
        lesion_f1_both_empty=1.0,
        ratio_both_empty=0.0,
        ratio_one_empty=0.0,
    ),
    "nnunet": Convention(
        "nnunet",
        "As nnU-Net: every 0/0 is undefined and left out of means: Dice and lesion F1 where both "
        "masks are empty, precision where the prediction is, sensitivity where the reference is; "
        f"26-connected lesions. {_SURFACES}",
        dice_both_empty=nan,
        lesion_f1_both_empty=nan,
        ratio_both_empty=nan,
        ratio_one_empty=nan,
    ),
}


def scores(
    reference: ArrayLike,
    prediction: ArrayLike,
    spacing_mm: Sequence[float],
    convention: str = "isles22",
) -> dict[str, float]:
    """Scores a predicted lesion mask against a reference mask.

    Args:
        reference: 3-D mask, bool or numbers that are exactly 0 and 1, any axis order.
        prediction: mask of the same shape and axis order.
        spacing_mm: voxel size in mm along the three axes of the arrays, in their order.
        convention: key of `CONVENTIONS`: what empty masks score.

    Returns:
        `SCORE_KEYS` in order: `dice`, `precision`, `sensitivity`, `lesion_f1` in [0, 1];
        `lesion_count_difference` a whole number >= 0; volumes in ml, `hd95_mm` and `assd_mm`
        in mm. NaN where the convention leaves a score undefined.

    Raises:
        ValueError: unknown convention; masks not 3-D, not of one shape, or with anything but 0
            and 1 (NaN, probabilities); spacing other than three positive numbers.
    """
    pair = _pair(reference, prediction, spacing_mm, convention)
    return {key: float(metric(pair)) for key, metric in METRICS.items()}


@dataclass(frozen=True)
class _Pair:
    """Two masks, bool and equal in shape, cropped to the box around their union."""

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
        """Reference lesions, those found; predicted lesions, those that touch a reference."""
        reference, n_reference = self._label(self.reference)
        prediction, n_predicted = self._label(self.prediction)
        found = len(np.unique(reference[self.both]))
        touching = len(np.unique(prediction[self.both]))
        return n_reference, found, n_predicted, touching

    @cached_property
    def surface_distances(self) -> tuple[np.ndarray, np.ndarray]:
        """d(S(R), P) and d(S(P), R) in mm, 1-D; both empty where either mask is."""
        if not (self.counts[0] and self.counts[1]):
            return np.empty(0), np.empty(0)
        reference = np.argwhere(_surface(self.reference)) * self.spacing_mm
        prediction = np.argwhere(_surface(self.prediction)) * self.spacing_mm
        return _nearest(reference, prediction), _nearest(prediction, reference)

    def _label(self, mask: np.ndarray) -> tuple[np.ndarray, int]:
        # Padded: cc3d 4.1.1 raises, or miscounts, on boxes one voxel wide along two axes.
        labels, n = cc3d.connected_components(
            np.pad(mask, 1), connectivity=self.convention.connectivity, return_N=True
        )
        return labels[1:-1, 1:-1, 1:-1], n


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
    return _Pair(reference[box], prediction[box], spacing, find_convention(convention))


def find_convention(name: str) -> Convention:
    """Returns `CONVENTIONS[name]`; an unknown name raises a ValueError that lists the known."""
    if name not in CONVENTIONS:
        known = ", ".join(CONVENTIONS)
        raise ValueError(f"convention must be one of {known}. Received {name!r}.")
    return CONVENTIONS[name]


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
    box = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        hits = np.flatnonzero(mask.any(axis=others))
        box.append(slice(hits[0], hits[-1] + 1) if hits.size else slice(0, 1))
    return tuple(box)


def _surface(mask: np.ndarray) -> np.ndarray:
    """Voxels that a 6-connected erosion takes away. Shifted views are faster than scipy's."""
    padded = np.pad(mask, 1)
    inside = mask.copy()
    for axis in range(3):
        for start in (0, 2):
            window = [slice(1, -1)] * 3
            window[axis] = slice(start, start + mask.shape[axis])
            inside &= padded[tuple(window)]
    return mask & ~inside


def _nearest(points: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Distance from each of (n, 3) points to the nearest of (m, 3) others, in their unit."""
    # Points of a grid: balancing the tree costs more than it saves.
    tree = cKDTree(others, balanced_tree=False, compact_nodes=False)
    return tree.query(points)[0]


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
    outward, inward = pair.surface_distances
    return max(np.percentile(outward, 95), np.percentile(inward, 95)) if outward.size else nan


def _assd_mm(pair: _Pair) -> float:
    distances = np.concatenate(pair.surface_distances)
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
