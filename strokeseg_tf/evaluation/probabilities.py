"""What a run's probabilities are worth: Dice against threshold, and calibration."""

from collections.abc import Mapping
from typing import Any

import numpy as np

#: The thresholds of the curve, and the edges of the calibration bins with 0 and 1.
THRESHOLDS: tuple[float, ...] = tuple(round(0.05 * step, 2) for step in range(1, 20))


class ProbabilityCurves:
    """Gathers both curves of one run on one modality against one rater, study by study.

    A voxel with probability p lies in bin i when THRESHOLDS[i - 1] < p <= THRESHOLDS[i], so that
    "p above the threshold", the rule of prediction, counts whole bins.

    Args:
        dice_both_empty: what Dice is where prediction and reference are empty; a NaN leaves such
            a study out of that threshold's mean.
    """

    def __init__(self, dice_both_empty: float = 1.0):
        self._both_empty = dice_both_empty
        self._dice: list[np.ndarray] = []
        bins = len(THRESHOLDS) + 1
        self._voxels, self._lesion = np.zeros(bins, np.int64), np.zeros(bins, np.int64)
        self._sum = np.zeros(bins)

    def add(self, probability: np.ndarray, reference: np.ndarray) -> None:
        """Add a study.

        Args:
            probability: float array in [0, 1].
            reference: bool array of the same shape.

        Raises:
            ValueError: the shapes differ, or a probability is outside [0, 1] or NaN.
        """
        if probability.shape != reference.shape:
            raise ValueError(
                "probability and reference must have one shape. "
                f"Received {probability.shape} and {reference.shape}."
            )
        if not (probability.min() >= 0 and probability.max() <= 1):  # Also where there is a NaN.
            raise ValueError("probability must lie in [0, 1].")
        values = probability.ravel()
        edges = np.asarray(THRESHOLDS, values.dtype)
        place = np.searchsorted(edges, values, side="left")
        bins = len(edges) + 1
        voxels = np.bincount(place, minlength=bins)
        lesion = np.bincount(place[reference.ravel()], minlength=bins)
        self._voxels += voxels
        self._lesion += lesion
        self._sum += np.bincount(place, values, bins)
        self._dice.append(self._dice_by_threshold(voxels, lesion))

    def _dice_by_threshold(self, voxels: np.ndarray, lesion: np.ndarray) -> np.ndarray:
        predicted, both = (np.cumsum(counts[::-1])[::-1][1:] for counts in (voxels, lesion))
        total = predicted + lesion.sum()
        return np.where(total > 0, 2 * both / np.maximum(total, 1), self._both_empty)

    def summary(self, chosen: float) -> dict[str, Any]:
        """Both curves, ready for JSON (undefined numbers are None).

        Args:
            chosen: The threshold of the run.

        Returns:
            `thresholds`; `dice`, the mean over studies at each; `best`, the threshold with the
            highest (of equals the one nearest 0.5); `chosen`; `calibration`, a row per bin with
            `low`, `high`, `voxels`, `mean_probability` and `lesion_share`; and
            `expected_calibration_error`, the mean over voxels of |lesion share - mean probability|
            of their bin.
        """
        dice = _mean_of_defined(np.array(self._dice))
        known = [(d, -abs(t - 0.5), t) for t, d in zip(THRESHOLDS, dice, strict=True) if d == d]
        error = np.abs(self._lesion - self._sum).sum() / max(int(self._voxels.sum()), 1)
        return {
            "studies": len(self._dice),
            "thresholds": list(THRESHOLDS),
            "dice": [float(d) if d == d else None for d in dice],
            "best": max(known)[2] if known else None,
            "chosen": float(chosen),
            "calibration": self._calibration(),
            "expected_calibration_error": float(error),
        }

    def _calibration(self) -> list[dict[str, Any]]:
        edges = (0.0, *THRESHOLDS, 1.0)
        rows = zip(edges, edges[1:], self._voxels, self._sum, self._lesion, strict=False)
        return [
            {
                "low": low,
                "high": high,
                "voxels": int(voxels),
                "mean_probability": float(total / voxels) if voxels else None,
                "lesion_share": float(lesion / voxels) if voxels else None,
            }
            for low, high, voxels, total, lesion in rows
        ]


def _mean_of_defined(values: np.ndarray) -> np.ndarray:
    """Mean along the first axis over what is no NaN; NaN where nothing is."""
    defined = np.isfinite(values)
    count = defined.sum(axis=0)
    total = np.where(defined, values, 0).sum(axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def summarise_probabilities(
    curves: Mapping[tuple[str, str, str], ProbabilityCurves], thresholds: Mapping[str, float]
) -> list[dict[str, Any]]:
    """Entries for `summary.json` of curves by (run, modality, rater), and thresholds by run."""
    return [
        {"run": run, "modality": modality, "rater": rater, **gathered.summary(thresholds[run])}
        for (run, modality, rater), gathered in curves.items()
    ]
