"""The way between files and stacks of slices, and between grids."""

import nibabel as nib
import numpy as np
import pytest

from tfrecord_tools.grid import Grid, resample

SHAPE = (4, 5, 6)
OBLIQUE = nib.affines.from_matvec(
    nib.eulerangles.euler2mat(0.2, 0.1, 0.3) @ np.diag([-0.9, 0.9, 6]), [50, -60, 20]
)
STORED = {
    "RAS": np.diag([0.9, 0.8, 6, 1]),
    "LAS": np.diag([-0.9, 0.8, 6, 1]),
    "LPS": np.diag([-0.9, -0.8, 6, 1]),
    "upside down": np.diag([0.9, 0.8, -6, 1]),
    "oblique": OBLIQUE,
}
SAGITTAL = np.array([[0, 0, 6, 0], [0.9, 0, 0, 0], [0, 0.8, 0, 0], [0, 0, 0, 1.0]])
CORONAL = np.array([[0.9, 0, 0, 0], [0, 0, 6, 0], [0, 0.8, 0, 0], [0, 0, 0, 1.0]])


@pytest.mark.parametrize("affine", STORED.values(), ids=STORED)
def test_axial_files_are_cut_along_their_third_axis(affine):
    grid = Grid(SHAPE, affine)
    assert grid.slice_axis == 2
    assert grid.spacing_mm[0] == pytest.approx(6, rel=1e-6)


@pytest.mark.parametrize("affine", [SAGITTAL, CORONAL], ids=["sagittal", "coronal"])
def test_slices_are_axial_however_the_file_is_stored(affine):
    grid = Grid(SHAPE, affine)
    assert grid.slice_axis == 1
    assert grid.spacing_mm[0] == pytest.approx(0.8)
    slices, height, width = (5, 6, 4) if affine is SAGITTAL else (5, 4, 6)
    assert grid.to_slices(np.zeros(SHAPE)).shape == (slices, height, width)


@pytest.mark.parametrize("affine", [*STORED.values(), SAGITTAL, CORONAL])
def test_slices_go_back_to_the_volume(affine):
    volume = np.arange(np.prod(SHAPE)).reshape(SHAPE)
    grid = Grid(SHAPE, affine)
    np.testing.assert_array_equal(grid.to_volume(grid.to_slices(volume)), volume)


def test_the_volume_of_a_voxel_is_that_of_its_parallelepiped_when_axes_are_square():
    assert Grid(SHAPE, OBLIQUE).voxel_ml == pytest.approx(abs(np.linalg.det(OBLIQUE)) / 1000)


def test_grids_agree_to_a_tenth_of_a_voxel_and_no_further():
    grid, shift = Grid(SHAPE, OBLIQUE), np.zeros((4, 4))
    shift[0, 3] = 0.08
    assert grid.agrees(Grid(SHAPE, OBLIQUE + 1e-7))
    assert grid.agrees(Grid(SHAPE, OBLIQUE + shift))
    assert not grid.agrees(Grid(SHAPE, OBLIQUE + 2 * shift))
    assert not grid.agrees(Grid((4, 5, 7), OBLIQUE))
    assert not grid.agrees(Grid(SHAPE, OBLIQUE @ np.diag([-1, 1, 1, 1])))


def test_a_ramp_resampled_is_the_same_ramp():
    source = Grid((8, 8, 8), np.diag([1.0, 1, 1, 1]))
    target = Grid((3, 3, 3), np.array([[2, 0, 0, 1], [0, 1.5, 0, 1], [0, 0, 0.5, 1], [0, 0, 0, 1]]))
    x, y, z = np.indices((8, 8, 8))
    i, j, k = np.indices((3, 3, 3))
    expected = (2 * i + 1) + 10 * (1.5 * j + 1) + 100 * (0.5 * k + 1)
    result = resample(x + 10 * y + 100 * z, source, target, order=1)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected, rtol=1e-6)


def test_outside_of_the_source_lies_nothing():
    source = Grid((4, 4, 4), np.eye(4))
    far = Grid((4, 4, 4), nib.affines.from_matvec(np.eye(3), [100, 0, 0]))
    assert not resample(np.ones((4, 4, 4)), source, far, order=0).any()
