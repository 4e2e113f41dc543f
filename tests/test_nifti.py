"""NIfTI files read with care and written in place."""

import gzip
import io
import os
import resource
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest

from tfrecord_tools.errors import InputError
from tfrecord_tools.grid import Grid
from tfrecord_tools.nifti import read_mask, read_volume, write_like, write_volume

SHAPE = (12, 10, 6)
AFFINE = nib.affines.from_matvec(
    nib.eulerangles.euler2mat(0.1, 0.2, 0.05) @ np.diag([-0.9, 0.9, 6]), [50, -60, 20]
)


def save(path, array, affine=AFFINE, scale=None, **header):
    """Write with nibabel alone: `scale` is (slope, intercept), stored values are `array`."""
    image = nib.Nifti1Image(array, affine)
    for name, value in header.items():
        image.header[name] = value
    if scale:
        image.header.set_slope_inter(*scale)
    nib.save(image, path)
    return path


def volume(dtype=np.float32):
    return (np.random.default_rng(0).normal(size=SHAPE) * 100).astype(dtype)


def refusal(read, path):
    """The text of the refusal: one line that names the file."""
    with pytest.raises(InputError) as caught:
        read(path)
    text = str(caught.value)
    assert str(path) in text and "\n" not in text
    return text


# Reading


@pytest.mark.parametrize("name", ["x.nii", "x.nii.gz"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
def test_voxels_are_read_as_the_nearest_float32(tmp_path, name, dtype):
    array = volume(dtype)
    read, grid = read_volume(save(tmp_path / name, array))
    assert read.dtype == np.float32 and grid.shape == SHAPE
    np.testing.assert_array_equal(read, array.astype(np.float32))
    np.testing.assert_allclose(grid.affine, AFFINE, rtol=1e-6)


def test_slope_and_intercept_are_applied_in_float64(tmp_path):
    array = volume(np.int16)
    path = save(tmp_path / "x.nii.gz", array, scale=(0.1, -7))
    slope, intercept = (float(np.float32(v)) for v in (0.1, -7))
    expected = (array * slope + intercept).astype(np.float32)
    np.testing.assert_array_equal(read_volume(path)[0], expected)


def test_big_endian_and_nifti2_files_are_read(tmp_path):
    array = volume()
    header = nib.Nifti1Header(endianness=">")
    header.set_data_dtype(np.float32)
    nib.save(nib.Nifti1Image(array, AFFINE, header), tmp_path / "big.nii.gz")
    nib.save(nib.Nifti2Image(array, AFFINE), tmp_path / "two.nii.gz")
    for name in ("big.nii.gz", "two.nii.gz"):
        np.testing.assert_array_equal(read_volume(tmp_path / name)[0], array)


@pytest.mark.parametrize("trailing", [(1,), (1, 1)])
def test_trailing_axes_of_length_one_are_dropped(tmp_path, trailing):
    array = volume()
    path = save(tmp_path / "x.nii.gz", array.reshape(*SHAPE, *trailing))
    np.testing.assert_array_equal(read_volume(path)[0], array)


def test_a_mask_with_a_scale_slope_keeps_the_whole_lesion(tmp_path):
    """It reads as 0.99999999977 or so: `== 1` and a cast to integers would lose it all."""
    stored = np.zeros(SHAPE, np.uint8)
    stored[3:6, 3:6, 2] = 255
    path = save(tmp_path / "m.nii.gz", stored, scale=(0.00392156862, 0))
    values = nib.load(path).get_fdata()
    assert 0 < 1 - values.max() < 1e-6
    np.testing.assert_array_equal(read_mask(path)[0], stored > 0)


def test_a_file_padded_with_a_few_bytes_is_read(tmp_path):
    path = save(tmp_path / "x.nii.gz", volume())
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()) + bytes(512)))
    np.testing.assert_array_equal(read_volume(path)[0], volume())


# Refusing


def test_a_missing_file_is_refused(tmp_path):
    assert "does not exist; check the path" in refusal(read_volume, tmp_path / "x.nii.gz")


@pytest.mark.parametrize("name", ["x.nii", "x.nii.gz"])
@pytest.mark.parametrize("content", [b"", b"\0" * 40, b"not an image " * 99])
def test_garbage_is_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert "cannot be read" in refusal(read_volume, tmp_path / name)


@pytest.mark.parametrize("name", ["x.nii", "x.nii.gz"])
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused(tmp_path, name, kept):
    path = save(tmp_path / name, volume())
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    assert "restore or convert the file again" in refusal(read_volume, path)


def test_any_flipped_bit_in_a_compressed_file_is_found(tmp_path):
    """nibabel stops before the checksum at the file's end; so a flip would pass."""
    path = save(tmp_path / "x.nii.gz", volume(np.int16))
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    for position in rng.integers(10, len(content), 50):
        damaged = bytearray(content)
        damaged[position] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        refusal(read_volume, path)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((4, 4, 3, 2)), "4-D with shape (4, 4, 3, 2)"),
        (np.zeros((4, 4)), "2-D"),
        (np.zeros((4, 4, 3), np.complex64), "complex64"),
        (np.zeros((4, 4, 3), [("R", "u1"), ("G", "u1"), ("B", "u1")]), "not numbers"),
    ],
)
def test_what_is_no_volume_of_numbers_is_refused(tmp_path, array, words):
    assert words in refusal(read_volume, save(tmp_path / "x.nii.gz", array))


def with_dims(path, *dims):
    """The same file, declaring other dimensions."""
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[40:56] = np.array([len(dims), *dims] + [1] * (7 - len(dims)), "<i2").tobytes()
    path.write_bytes(gzip.compress(content))
    return path


@pytest.mark.parametrize(
    ("dims", "words"),
    [
        ((32767, 32767, 32767), "too many to be a study"),
        ((300, 300, 300), "more than it can hold"),
        ((13, 10, 6), "cannot be read"),
        ((0, 10, 6), "shape (0, 10, 6)"),
        ((12, -10, 6), "(12, -10, 6)"),
        ((12, 10, 6, 0), "4-D"),
    ],
)
def test_absurd_dimensions_are_refused_before_anything_is_read(tmp_path, dims, words):
    assert words in refusal(read_volume, with_dims(save(tmp_path / "x.nii.gz", volume()), *dims))


def test_a_file_that_holds_far_more_than_it_declares_is_refused(tmp_path):
    path = save(tmp_path / "x.nii.gz", np.zeros((200, 200, 100), np.float32))
    assert "far more than" in refusal(read_volume, with_dims(path, 2, 2, 2))


def test_another_format_is_refused(tmp_path):
    nib.save(nib.MGHImage(volume(), AFFINE), tmp_path / "x.mgz")
    assert "not NIfTI or MetaImage; convert it" in refusal(read_volume, tmp_path / "x.mgz")


@pytest.mark.parametrize("value", [0, np.nan, np.inf])
def test_an_affine_that_places_no_voxel_is_refused(tmp_path, value):
    path = save(tmp_path / "x.nii.gz", volume(), srow_x=[value] * 4)
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[280:296] = np.full(4, value, "<f4").tobytes()
    path.write_bytes(gzip.compress(content))
    assert "places no voxel; repair its header" in refusal(read_volume, path)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_mask_with_voxels_that_are_no_numbers_is_refused(tmp_path, value):
    array = volume()
    array[1, 2, 3] = value
    assert "NaN or infinite" in refusal(read_mask, save(tmp_path / "m.nii.gz", array))


@pytest.mark.parametrize("name", ["x.nii", "x.nii.gz", "x.mha", "x.mhd"])
def test_what_is_no_file_is_refused(tmp_path, name):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / name).mkdir()
    (tmp_path / "pipe").mkdir()
    os.mkfifo(tmp_path / "pipe" / name)
    (tmp_path / "loop").mkdir()
    (tmp_path / "loop" / name).symlink_to(tmp_path / "loop" / name)
    for home, words in {"folder": "no file", "pipe": "no file", "loop": ""}.items():
        assert words in refusal(read_volume, tmp_path / home / name)
    refusal(read_volume, tmp_path / ("long" * 99 + name))
    refusal(read_volume, tmp_path / "no" / "such" / name)


@pytest.mark.parametrize("name", ["x.nii", "x.nii.gz", "x.mha"])
def test_a_file_that_may_not_be_read_is_refused(tmp_path, name):
    """In a process of its own, which is not root's even where the tests are."""
    path = tmp_path / name
    path.write_bytes(b"secret")
    path.chmod(0)
    program = (
        "import os, sys; from tfrecord_tools.nifti import read_volume\n"
        "os.getuid() or os.setuid(65534)\n"
        "from tfrecord_tools.errors import InputError\n"
        "try: read_volume(sys.argv[1])\n"
        "except InputError as error: print(error)"
    )
    for home in (tmp_path, *tmp_path.parents[:2]):
        home.chmod(0o755)
    done = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True)
    assert done.stdout == f"{path} may not be read; check its permissions\n" and not done.stderr


@pytest.mark.parametrize("name", ["x.nii", "x.nii.gz"])
@pytest.mark.parametrize(
    ("field", "value"),
    [("pixdim", np.nan), ("pixdim", 0), ("pixdim", np.inf), ("qoffset_x", np.nan)]
    + [("quatern_b", np.nan), ("quatern_b", 40), ("qoffset_y", np.inf)],
)
def test_a_qform_that_is_no_place_is_refused(tmp_path, name, field, value):
    """Or, where nibabel takes a length of 0 for 1, read as nibabel reads it."""
    image = nib.Nifti1Image(volume(), None)
    image.set_sform(None, 0)
    image.set_qform(AFFINE @ np.diag([1, 1, 1.0, 1]), 1, strip_shears=True)
    path = tmp_path / "x.nii"
    nib.save(image, path)
    header = nib.Nifti1Header.from_fileobj(io.BytesIO(path.read_bytes()), check=False)
    header[field] = value
    content = header.binaryblock + path.read_bytes()[348:]
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    if field == "pixdim" and value == 0:
        read, grid = read_volume(tmp_path / name)
        np.testing.assert_array_equal(read, volume())
        assert np.isfinite(grid.affine).all()
    else:
        refusal(read_volume, tmp_path / name)


def test_bombs_are_refused_by_the_size_they_declare(tmp_path):
    """Small files of zeros that would fill the memory: as one volume, as a series, on disk."""
    path = save(tmp_path / "x.nii.gz", volume())
    header = gzip.decompress(path.read_bytes())[:352]
    header = bytearray(header)
    for dims in ([3, 900, 900, 900], [4, 500, 500, 50, 99], [4, 90, 90, 9, 32000]):
        header[40:56] = np.array(dims + [1] * (8 - len(dims)), "<i2").tobytes()
        path.write_bytes(gzip.compress(bytes(header)) + gzip.compress(bytes(1 << 24), 9) * 40)
        (tmp_path / "x.bval").write_text(" ".join(["1000"] * dims[4]) if dims[0] == 4 else "0")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        assert "to be a study" in refusal(read_volume, path)
        sparse = tmp_path / "y.nii"
        sparse.write_bytes(bytes(header))
        os.truncate(sparse, 1 << 33)
        (tmp_path / "y.bval").write_text((tmp_path / "x.bval").read_text())
        assert "to be a study" in refusal(read_volume, sparse)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 15  # KiB


# Writing


@pytest.mark.parametrize("array", [volume(), volume() > 0, volume(np.int16)])
def test_a_volume_written_is_the_volume_read(tmp_path, array):
    path = tmp_path / "x.nii.gz"
    write_volume(path, array, Grid(SHAPE, AFFINE))
    read, grid = read_volume(path)
    np.testing.assert_array_equal(read, array.astype(np.float32))
    np.testing.assert_allclose(grid.affine, AFFINE, rtol=1e-6)
    assert nib.load(path).get_data_dtype() == (np.uint8 if array.dtype == bool else array.dtype)


def test_a_sheared_grid_is_written_without_a_qform(tmp_path):
    """Which cannot hold it; the sform does."""
    sheared = AFFINE @ np.array([[1, 0.1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    write_volume(tmp_path / "x.nii.gz", volume(), Grid(SHAPE, sheared))
    image = nib.load(tmp_path / "x.nii.gz")
    assert image.get_qform(coded=True)[1] == 0
    np.testing.assert_allclose(image.affine, sheared, rtol=1e-6)


def source_image(path, shape=SHAPE, qform=1, sform=2, endianness="<"):
    """An image whose qform and sform disagree and whose free text names a patient."""
    header = nib.Nifti1Header(endianness=endianness)
    for field in ("descrip", "aux_file", "db_name", "intent_name"):
        header[field] = b"Jane Doe"
    header.set_xyzt_units("mm", "sec")
    image = nib.Nifti1Image(np.ones(shape, np.int16), AFFINE, header)
    image.set_sform(AFFINE, sform)
    image.set_qform(AFFINE @ np.diag([1, 1, 1.01, 1]), qform)
    image.header.set_slope_inter(3, 0)
    nib.save(image, path)
    return path


@pytest.mark.parametrize("shape", [SHAPE, (*SHAPE, 1), (*SHAPE, 1, 1)])
@pytest.mark.parametrize("codes", [(0, 0), (1, 0), (0, 1), (1, 1), (1, 2), (4, 3)])
@pytest.mark.parametrize("endianness", ["<", ">"])
def test_a_mask_lies_exactly_where_its_image_does(tmp_path, shape, codes, endianness):
    source = source_image(tmp_path / "image.nii.gz", shape, *codes, endianness)
    write_like(tmp_path / "mask.nii.gz", volume() > 0, source)
    image, mask = nib.load(source), nib.load(tmp_path / "mask.nii.gz")
    assert mask.shape == image.shape == shape
    np.testing.assert_array_equal(mask.affine, image.affine)
    for form in ("qform", "sform"):
        expected, code = getattr(image, f"get_{form}")(coded=True)
        found, found_code = getattr(mask, f"get_{form}")(coded=True)
        assert found_code == code
        np.testing.assert_array_equal(found, expected)
    assert mask.header.get_zooms() == image.header.get_zooms()
    assert mask.header.get_xyzt_units() == image.header.get_xyzt_units()
    assert mask.get_data_dtype() == np.uint8 and mask.dataobj.slope == 1
    np.testing.assert_array_equal(np.asarray(mask.dataobj).reshape(SHAPE), volume() > 0)


def test_no_free_text_of_the_source_is_copied(tmp_path):
    source = source_image(tmp_path / "image.nii.gz")
    assert b"Jane Doe" in gzip.decompress(source.read_bytes())
    write_like(tmp_path / "mask.nii.gz", volume() > 0, source)
    assert b"Jane" not in gzip.decompress((tmp_path / "mask.nii.gz").read_bytes())


def test_the_same_volume_gives_the_same_bytes(tmp_path):
    source = source_image(tmp_path / "image.nii.gz")
    for name in ("a.nii.gz", "b.nii.gz"):
        write_like(tmp_path / name, volume(), source)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()
    assert b".nii" not in (tmp_path / "a.nii.gz").read_bytes()[:40]
