"""The voxel grid of an image, and the way between files and stacks of slices."""

import dataclasses
import functools
import itertools

import nibabel
import numpy as np
from nibabel import orientations

#: Two grids agree when no corner of the volume moves by more than this share of a voxel.
GRID_TOLERANCE = 0.1

#: The orientation of every stack of slices: axes towards left, anterior, superior.
LAS = orientations.axcodes2ornt("LAS")


@dataclasses.dataclass(frozen=True, eq=False)
class Grid:
    """The grid of an image file.

    Stacks of slices have one orientation whatever the file's: slices towards the patient's
    superior, then left, then anterior. So a network sees every brain the same way round.

    Attributes:
        shape: Voxels along the file's three axes.
        affine: float64 `(4, 4)`, voxel indices to millimetres (RAS+).
    """

    shape: tuple[int, int, int]
    affine: np.ndarray

    @functools.cached_property
    def _orientation(self) -> np.ndarray:
        """Of each file axis the anatomical one it is nearest to, and its direction."""
        return orientations.io_orientation(self.affine)

    @property
    def _order(self) -> list[int]:
        """The file axes of [slice, height, width]."""
        return [int(np.argmax(self._orientation[:, 0] == world)) for world in (2, 0, 1)]

    @property
    def slice_axis(self) -> int:
        """The file axis closest to inferior-superior."""
        return self._order[0]

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance of voxels along [slice, height, width]."""
        spacing = np.linalg.norm(self.affine[:3, :3], axis=0)
        return tuple(float(spacing[axis]) for axis in self._order)

    @property
    def canonical(self) -> "Grid":
        """The same voxels as a file whose axes run left, anterior, superior (LAS)."""
        slices, height, width = (self.shape[axis] for axis in self._order)
        turn = orientations.ornt_transform(self._orientation, LAS)
        affine = self.affine @ orientations.inv_ornt_aff(turn, self.shape)
        return Grid((height, width, slices), affine)

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in millilitres."""
        return float(np.prod(self.spacing_mm)) / 1000

    def to_slices(self, volume: np.ndarray) -> np.ndarray:
        """File order -> [slice, height, width], towards superior, left and anterior."""
        turn = orientations.ornt_transform(self._orientation, LAS)
        turned = orientations.apply_orientation(volume, turn)
        return np.ascontiguousarray(np.moveaxis(turned, 2, 0))

    def to_volume(self, slices: np.ndarray) -> np.ndarray:
        """[slice, height, width] -> file order; the exact inverse of `to_slices`."""
        turn = orientations.ornt_transform(LAS, self._orientation)
        return orientations.apply_orientation(np.moveaxis(slices, 0, 2), turn)

    def agrees(self, other: "Grid") -> bool:
        """Same shape, and every corner in the same place to `GRID_TOLERANCE` of a voxel."""
        if self.shape != other.shape:
            return False
        corners = np.array([(*c, 1) for c in itertools.product(*((0, n - 1) for n in self.shape))])
        shift = np.linalg.norm((corners @ (self.affine - other.affine).T)[:, :3], axis=1).max()
        return bool(shift <= GRID_TOLERANCE * min(self.spacing_mm))

    def covers(self, other: "Grid") -> bool:
        """The same voxels in the same places, whatever the order of the file's axes."""
        return self.canonical.agrees(other.canonical)


def resample(volume: np.ndarray, source: Grid, target: Grid, *, order: int) -> np.ndarray:
    """Resample a volume in file order from one grid to another.

    Between two files of the same voxels in another order nothing is interpolated.

    Args:
        volume: Array of shape `source.shape`.
        source: Its grid.
        target: The wanted grid.
        order: 1 for trilinear (images, probabilities), 0 for nearest neighbour (masks).

    Returns:
        float32 of shape `target.shape`; 0 outside the source.
    """
    from nibabel.processing import resample_from_to

    slices = source.to_slices(volume.astype(np.float32))
    if not source.covers(target):
        # In one orientation, so that a turned copy of the file gives the same voxels.
        image = nibabel.Nifti1Image(np.moveaxis(slices, 0, 2), source.canonical.affine)
        wanted = target.canonical
        result = resample_from_to(image, (wanted.shape, wanted.affine), order=order, cval=0.0)
        slices = np.moveaxis(np.asarray(result.dataobj, dtype=np.float32), 2, 0)
    return target.to_volume(slices)
