"""Surfaces of masks and the distances between them, on plain arrays."""

from collections.abc import Sequence

import numpy as np
from scipy.spatial import cKDTree


def surface(mask: np.ndarray) -> np.ndarray:
    """Voxels of a mask with at least one of their 6 face neighbours outside it.

    Args:
        mask: 3-D bool, C-contiguous; its outermost voxels are all background.

    Returns:
        int64 (voxels, 3), indices into the mask.
    """
    voxels = mask.reshape(-1)
    at = np.flatnonzero(voxels)
    inside = np.ones(len(at), bool)
    # The rim of background keeps every neighbour in the array and rows from running into others.
    for step in (1, mask.shape[2], mask.shape[1] * mask.shape[2]):
        inside &= voxels[at - step]
        inside &= voxels[at + step]
    return np.stack(np.unravel_index(at[~inside], mask.shape), axis=1)


def surface_distances(
    first: np.ndarray, second: np.ndarray, spacing_mm: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Distances between the surfaces of two masks, each as `surface` takes it.

    Returns:
        Two 1-D float64 arrays in mm: for each surface voxel of `first` how far off the nearest
        surface voxel of `second` is, centre to centre, and the other way round. Both have no
        elements where either mask has no voxel.
    """
    points = [surface(mask) * np.asarray(spacing_mm) for mask in (first, second)]
    if not (len(points[0]) and len(points[1])):
        return np.empty(0), np.empty(0)
    # Points of a grid: balancing the trees costs more than it saves.
    trees = [cKDTree(these, balanced_tree=False, compact_nodes=False) for these in points]
    return trees[1].query(points[0])[0], trees[0].query(points[1])[0]
