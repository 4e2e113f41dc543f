"""The voxel grid of an image, and the way between files and stacks of slices."""

import dataclasses
import itertools

import nibabel
import numpy as np

#: Two grids agree when no corner of the volume moves by more than this share of a voxel.
GRID_TOLERANCE = 0.1


@dataclasses.dataclass(frozen=True, eq=False)
class Grid:
    """The grid of an image file.

    Attributes:
        shape: Voxels along the file's three axes.
        affine: float64 `(4, 4)`, voxel indices to millimetres (RAS+).
    """

    shape: tuple[int, int, int]
    affine: np.ndarray

    @property
    def slice_axis(self) -> int:
        """The file axis closest to inferior-superior."""
        return int(np.argmax(nibabel.io_orientation(self.affine)[:, 0] == 2))

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance of voxels along [slice, height, width]."""
        spacing = [float(s) for s in np.linalg.norm(self.affine[:3, :3], axis=0)]
        return (spacing.pop(self.slice_axis), *spacing)

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in millilitres."""
        return float(np.prod(self.spacing_mm)) / 1000

    def to_slices(self, volume: np.ndarray) -> np.ndarray:
        """File order -> [slice, height, width]: the other two axes keep their order."""
        return np.ascontiguousarray(np.moveaxis(volume, self.slice_axis, 0))

    def to_volume(self, slices: np.ndarray) -> np.ndarray:
        """[slice, height, width] -> file order; the inverse of `to_slices`."""
        return np.moveaxis(slices, 0, self.slice_axis)

    def agrees(self, other: "Grid") -> bool:
        """Same shape, and every corner in the same place to `GRID_TOLERANCE` of a voxel."""
        if self.shape != other.shape:
            return False
        corners = np.array([(*c, 1) for c in itertools.product(*((0, n - 1) for n in self.shape))])
        shift = np.linalg.norm((corners @ (self.affine - other.affine).T)[:, :3], axis=1).max()
        return bool(shift <= GRID_TOLERANCE * min(self.spacing_mm))


def resample(volume: np.ndarray, source: Grid, target: Grid, *, order: int) -> np.ndarray:
    """Resample a volume in file order from one grid to another.

    Args:
        volume: Array of shape `source.shape`.
        source: Its grid.
        target: The wanted grid.
        order: 1 for trilinear (images, probabilities), 0 for nearest neighbour (masks).

    Returns:
        float32 of shape `target.shape`; 0 outside the source.
    """
    from nibabel.processing import resample_from_to

    image = nibabel.Nifti1Image(volume.astype(np.float32), source.affine)
    result = resample_from_to(image, (target.shape, target.affine), order=order, cval=0.0)
    return np.asarray(result.dataobj, dtype=np.float32)
