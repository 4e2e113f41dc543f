"""Series of diffusion-weighted volumes, with their b-values beside them."""

import nibabel as nib
import numpy as np
import pytest

from tfrecord_tools.diffusion import find_shell, geometric_mean
from tfrecord_tools.errors import InputError
from tfrecord_tools.nifti import read_mask, read_volume, write_like

SHAPE = (6, 5, 4)
AFFINE = np.diag([-1.5, 1.5, 5, 1])


def series(folder, bvalues, *, name="dwi.nii.gz", text=None, dtype=np.int16, count=None):
    """A series whose volumes dim with b; `text` is what stands in the `.bval` file."""
    count = len(bvalues) if count is None else count
    rng = np.random.default_rng(0)
    volumes = rng.integers(1, 1000, (*SHAPE, count)).astype(dtype)
    path = folder / name
    nib.save(nib.Nifti1Image(volumes, AFFINE), path)
    text = " ".join(f"{b:g}" for b in bvalues) if text is None else text
    (folder / "dwi.bval").write_text(text)
    return path, volumes


@pytest.mark.parametrize(
    ("bvalues", "shell"),
    [
        ([0, 1000], [1]),
        ([0, 1000, 1000, 1000], [1, 2, 3]),
        ([5, 995, 1000, 1010, 2000], [1, 2, 3]),
        ([0, 500, 1500, 1500], [2, 3]),
        ([0, 0, 2500], [2]),
        ([800, 0, 50], [0]),
        ([0, 5, 50], []),
        ([1000], [0]),
    ],
)
def test_the_shell_is_that_nearest_to_1000(bvalues, shell):
    assert find_shell(np.array(bvalues, float)).tolist() == shell


@pytest.mark.parametrize("name", ["dwi.nii", "dwi.nii.gz"])
def test_a_series_is_read_as_the_geometric_mean_over_directions(tmp_path, name):
    path, volumes = series(tmp_path, [0, 1000, 1000, 995, 2000], name=name)
    read, grid = read_volume(path)
    expected = np.prod(volumes[..., 1:4].astype(float), axis=-1) ** (1 / 3)
    assert read.dtype == np.float32 and grid.shape == SHAPE
    np.testing.assert_allclose(read, expected, rtol=1e-6)


def test_one_direction_is_the_volume_itself_below_0_too(tmp_path):
    path, volumes = series(tmp_path, [0, 1000])
    volumes[0, 0, 0, 1] = -3
    nib.save(nib.Nifti1Image(volumes, AFFINE), path)
    np.testing.assert_array_equal(read_volume(path)[0], volumes[..., 1])


def test_where_a_direction_shows_nothing_so_does_the_mean():
    one, other = np.array([0.0, 4, -2, 9]), np.array([5.0, 9, 3, 4])
    np.testing.assert_allclose(geometric_mean([one, other]), [0, 6, 0, 6])


def test_a_scaled_series_is_scaled(tmp_path):
    path, volumes = series(tmp_path, [0, 1000], name="dwi.nii")
    image = nib.Nifti1Image(volumes, AFFINE)
    image.header.set_slope_inter(0.25, 8)
    nib.save(image, path)
    np.testing.assert_allclose(read_volume(path)[0], volumes[..., 1] * 0.25 + 8, rtol=1e-6)


@pytest.mark.parametrize(
    ("bvalues", "text", "words"),
    [
        ([0, 1000], "0 1000 1000", "holds 2 volumes.*beside it 3"),
        ([0, 1000], "0 many", "cannot be read as b-values"),
        ([0, 1000], "0 nan", "negative or no numbers"),
        ([0, 1000], "0 -5", "negative or no numbers"),
        ([0, 1000], "", "beside it 0"),
        ([0, 20], None, "no diffusion-weighted volume, only b = 0 to 20"),
    ],
)
def test_b_values_that_do_not_fit_are_refused(tmp_path, bvalues, text, words):
    path, _ = series(tmp_path, bvalues, text=text)
    with pytest.raises(InputError, match=words) as refusal:
        read_volume(path)
    assert "\n" not in str(refusal.value)


def test_a_series_without_b_values_is_refused(tmp_path):
    path, _ = series(tmp_path, [0, 1000])
    (tmp_path / "dwi.bval").unlink()
    with pytest.raises(InputError, match=r"4-D with shape \(6, 5, 4, 2\).*\.bval"):
        read_volume(path)


def test_a_series_of_masks_is_refused(tmp_path):
    path, _ = series(tmp_path, [0, 1000])
    with pytest.raises(InputError, match="4-D"):
        read_mask(path)


def test_a_mask_for_a_series_is_one_volume_in_its_place(tmp_path):
    path, volumes = series(tmp_path, [0, 1000, 1000])
    mask = volumes[..., 1] > 500
    write_like(tmp_path / "mask.nii.gz", mask, path)
    written = nib.load(tmp_path / "mask.nii.gz")
    assert written.shape == SHAPE
    np.testing.assert_array_equal(written.affine, nib.load(path).affine)
    np.testing.assert_array_equal(np.asarray(written.dataobj) == 1, mask)


def test_a_scanner_series_is_read(isles22):
    """Canon, b = 0 and 12 x 1500, as dcm2niix writes it."""
    (bval,) = (isles22.parent / "dicom" / "reference" / "canon").glob("*.bval")
    path = bval.with_name(f"{bval.stem}.nii.gz")
    image = nib.load(path)
    assert image.shape[3] == 13
    volume, grid = read_volume(path)
    with np.errstate(divide="ignore"):
        expected = np.exp(np.log(image.get_fdata()[..., 1:]).mean(axis=-1))
    np.testing.assert_allclose(volume, expected, rtol=1e-5)
    np.testing.assert_array_equal(grid.affine, image.affine)
