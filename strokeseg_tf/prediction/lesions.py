"""The single lesions of a mask."""

import cc3d
import numpy as np


def keep_lesions(
    mask: np.ndarray, voxel_ml: float, least_ml: float = 0.0
) -> tuple[np.ndarray, int]:
    """Remove what is too small to be meant as a lesion.

    Args:
        mask: bool, 3-D.
        voxel_ml: Volume of a voxel in ml.
        least_ml: Components (26 neighbours, as the scores count them) below this go.

    Returns:
        The mask, and how many components are left.
    """
    labels, count = cc3d.connected_components(mask, connectivity=26, return_N=True)
    if not least_ml or not count:
        return mask, int(count)
    volumes = np.bincount(labels.ravel(), minlength=count + 1) * voxel_ml
    kept = volumes >= least_ml * (1 - 1e-9)
    kept[0] = False
    return kept[labels], int(kept.sum())
