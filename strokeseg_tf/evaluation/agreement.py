"""How well two lesion masks of one study agree beyond chance, and what such a number is called."""

from itertools import combinations
from math import isnan
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from strokeseg_tf.evaluation.scores import as_mask

# Upper edges, included: Landis and Koch (1977) print 0.00-0.20, 0.21-0.40 and so on.
LANDIS_KOCH_BANDS: tuple[tuple[float, str], ...] = (
    (0.2, "slight"),
    (0.4, "fair"),
    (0.6, "moderate"),
    (0.8, "substantial"),
    (1.0, "almost perfect"),
)


def cohen_kappa(a: ArrayLike, b: ArrayLike) -> float:
    """Voxel-wise Cohen's kappa of two masks over the whole volume.

    kappa = (p_o - p_e) / (1 - p_e), with p_o the share of voxels on which both say the same and
    p_e = p_a p_b + (1 - p_a)(1 - p_b) the share expected by chance from the lesion shares p.
    Two masks that are both empty, or both full, agree completely: 1, as in the paper's code.

    Args:
        a: 3-D mask, bool or exactly 0 and 1.
        b: mask of the same shape.

    Returns:
        Kappa in [-1, 1].

    Raises:
        ValueError: the masks differ in shape, are not 3-D, or hold anything but 0 and 1.
    """
    a, b = as_mask(a, "a"), as_mask(b, "b")
    if a.shape != b.shape:
        raise ValueError(f"a and b must have one shape. Received {a.shape} and {b.shape}.")
    # Whole numbers keep 1 - p_e exact where the lesion is a few voxels in millions.
    n, n_a, n_b = a.size, int(np.count_nonzero(a)), int(np.count_nonzero(b))
    same = n - int(np.count_nonzero(a ^ b))
    chance = n_a * n_b + (n - n_a) * (n - n_b)
    return 1.0 if chance == n * n else (same * n - chance) / (n * n - chance)


def landis_koch_band(kappa: float) -> str:
    """Names a kappa after Landis and Koch: "poor" below 0, "slight" up to 0.2, "fair" up to 0.4,
    "moderate" up to 0.6, "substantial" up to 0.8, then "almost perfect".

    Raises:
        ValueError: kappa is NaN or not in [-1, 1].
    """
    if isnan(kappa) or not -1 <= kappa <= 1:
        raise ValueError(f"kappa must lie in [-1, 1]. Received {kappa}.")
    if kappa < 0:
        return "poor"
    return next(name for edge, name in LANDIS_KOCH_BANDS if kappa <= edge)


def rater_agreement(
    study: str, references: dict[tuple[str, str], np.ndarray]
) -> list[dict[str, Any]]:
    """Kappa between every two raters of a study, on each modality that both have drawn.

    Args:
        study: study id.
        references: masks by (rater, modality), one shape.

    Returns:
        Rows with `study`, `modality`, `raters` (two names), `kappa` and `band`.
    """
    rows = []
    for modality in sorted({modality for _, modality in references}):
        raters = sorted(rater for rater, drawn in references if drawn == modality)
        for first, second in combinations(raters, 2):
            kappa = cohen_kappa(references[first, modality], references[second, modality])
            pair = {"study": study, "modality": modality, "raters": [first, second]}
            rows.append({**pair, "kappa": kappa, "band": landis_koch_band(kappa)})
    return rows
