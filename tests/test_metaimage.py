"""MetaImage files: as good as NIfTI, and no worse when they are damaged."""

import gzip
import zlib

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from metaimages import TYPES, as_metaimage, write_metaimage

from strokeseg_tf.cohort import predict_cohort
from tfrecord_tools.errors import InputError
from tfrecord_tools.grid import Grid
from tfrecord_tools.layouts import find_cases, find_studies, pair_of_files
from tfrecord_tools.nifti import read_mask, read_volume, write_like
from tfrecord_tools.study import read_study

SHAPE = (7, 6, 5)
AFFINE = nib.affines.from_matvec(
    nib.eulerangles.euler2mat(0.1, 0.2, 0.05) @ np.diag([-0.9, 0.8, 6]), [50, -60, 20]
)


def volume(dtype=np.float32):
    return (np.random.default_rng(0).normal(size=SHAPE) * 50).astype(dtype)


def refusal(path):
    """The text of the refusal: one line that names the file."""
    with pytest.raises(InputError) as caught:
        read_volume(path)
    text = str(caught.value)
    assert str(path) in text and "\n" not in text
    return text


@pytest.mark.parametrize("order", ["False", "True"])
@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("dtype", TYPES)
def test_voxels_and_places_are_those_of_the_file(tmp_path, dtype, compressed, order):
    array = volume(dtype)
    path = write_metaimage(
        tmp_path / "x.mha", array, AFFINE, compressed=compressed, BinaryDataByteOrderMSB=order
    )
    read, grid = read_volume(path)
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, array.astype(np.float32))
    np.testing.assert_allclose(grid.affine, AFFINE, atol=1e-12)


@pytest.mark.parametrize(("data", "compressed"), [("x.raw", False), ("x.zraw", True)])
def test_voxels_in_a_file_of_their_own_are_read(tmp_path, data, compressed):
    path = write_metaimage(tmp_path / "x.mhd", volume(), AFFINE, data=data, compressed=compressed)
    np.testing.assert_array_equal(read_volume(path)[0], volume())
    (tmp_path / data).unlink()
    assert f"its voxels in '{data}', which does not exist" in refusal(path)


def test_defaults_synonyms_and_a_fourth_axis_of_one(tmp_path):
    bare = {"TransformMatrix": None, "ElementSpacing": None, "Offset": None}
    path = write_metaimage(tmp_path / "x.mha", volume(), AFFINE, **bare, Position="1 2 3")
    np.testing.assert_array_equal(
        read_volume(path)[1].affine, [[-1, 0, 0, -1], [0, -1, 0, -2], [0, 0, 1, 3], [0, 0, 0, 1]]
    )
    four = {"NDims": "4", "DimSize": "7 6 5 1"}
    path = write_metaimage(tmp_path / "y.mha", volume(), AFFINE, **bare, **four)
    np.testing.assert_array_equal(read_volume(path)[0], volume())


def test_the_real_case_is_that_of_its_nifti_twin(isles22):
    for modality in ("adc", "dwi"):
        name = f"sub-strokecase0001_ses-0001_{modality}.nii.gz"
        nifti = isles22 / "rawdata" / "sub-strokecase0001" / "ses-0001" / name
        mha = isles22.parent / "isles22_mha" / f"sub-strokecase0001_{modality}.mha"
        (expected, grid), (found, own) = read_volume(nifti), read_volume(mha)
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_allclose(own.affine, grid.affine, atol=1e-6)
        assert own.agrees(grid)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"BinaryData": "False"}, "BinaryData = False is not supported"),
        ({"ElementNumberOfChannels": "3"}, "ElementNumberOfChannels = 3"),
        ({"ElementToIntensityFunctionSlope": "2"}, "FunctionSlope = 2"),
        ({"HeaderSize": "-1"}, "HeaderSize = -1"),
        ({"NDims": "100"}, "declares 3 axes"),
        ({"NDims": "-3"}, "no valid NDims"),
        ({"NDims": None}, "no valid NDims"),
        ({"NDims": "2", "DimSize": "7 30"}, "declares 2 axes"),
        ({"DimSize": "7 -6 5"}, "no valid DimSize"),
        ({"DimSize": "7 6.5 5"}, "no valid DimSize"),
        ({"DimSize": "7 0 5"}, "no valid DimSize"),
        ({"DimSize": "99999 99999 99999"}, "too many to be a study"),
        ({"DimSize": "1e300 1e300 1e300"}, "no valid DimSize"),
        ({"DimSize": "300 300 300"}, "more than it can hold"),
        ({"DimSize": "7 6 4"}, "fewer or more voxels"),
        ({"DimSize": "7 6 6"}, "fewer or more voxels"),
        ({"ElementType": "MET_LONG"}, "type MET_LONG"),
        ({"ElementType": "MET_SHORT"}, "fewer or more voxels"),
        ({"CompressedDataSize": "12"}, "declares 12"),
        ({"CompressedDataSize": "-5"}, "no valid CompressedDataSize"),
        ({"CompressedData": "maybe"}, "no valid CompressedData"),
        ({"CompressedData": "False"}, "bytes where its header declares 840"),
        ({"TransformMatrix": " ".join(["nan"] * 9)}, "no valid TransformMatrix"),
        ({"TransformMatrix": "1 0 0"}, "do not fit 3 axes"),
        ({"TransformMatrix": "1 0 0 1 0 0 0 0 1"}, "places no voxel"),
        ({"ElementSpacing": "0 1 1"}, "places no voxel"),
        ({"Offset": "inf 0 0"}, "no valid Offset"),
        ({"A line": "1", "without": "2\nequals"}, "no MetaImage header"),
        ({"Position": "1 2 3"}, "says Offset twice"),
        ({"Comment": "x" * 70_000}, "no MetaImage header"),
        ({"ElementDataFile": "/etc/passwd"}, "not one file beside it"),
        ({"ElementDataFile": "../x.raw"}, "not one file beside it"),
        ({"ElementDataFile": "LIST"}, "not one file beside it"),
        ({"ElementDataFile": ""}, "no ElementDataFile"),
    ],
)
def test_a_wrong_header_is_refused(tmp_path, changes, words):
    assert words in refusal(write_metaimage(tmp_path / "x.mha", volume(), AFFINE, **changes))


@pytest.mark.parametrize("content", [b"", b"\0" * 99, b"hello\n" * 99, b"NDims = 3\n"])
def test_garbage_is_refused(tmp_path, content):
    (tmp_path / "x.mha").write_bytes(content)
    assert "no MetaImage header" in refusal(tmp_path / "x.mha")


@pytest.mark.parametrize("compressed", [True, False])
def test_any_truncation_is_refused(tmp_path, compressed):
    path = write_metaimage(tmp_path / "x.mha", volume(), AFFINE, compressed=compressed)
    content = path.read_bytes()
    for kept in [*range(0, len(content), 37), len(content) - 1]:
        path.write_bytes(content[:kept])
        refusal(path)
    path.write_bytes(content + b"\0")
    refusal(path)


def test_any_flipped_bit_in_compressed_voxels_is_found(tmp_path):
    """What libraries read as zeros, after a line on standard error."""
    path = write_metaimage(tmp_path / "x.mha", volume(), AFFINE, CompressedDataSize=None)
    content = path.read_bytes()
    start = content.index(b"LOCAL\n") + len(b"LOCAL\n")
    rng = np.random.default_rng(0)
    for position in [*rng.integers(start + 2, len(content), 100), len(content) - 1]:
        damaged = bytearray(content)
        damaged[position] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        refusal(path)


@pytest.mark.parametrize("compress", [zlib.compress, gzip.compress])
def test_a_bomb_is_refused_by_what_it_holds(tmp_path, compress):
    path = write_metaimage(tmp_path / "x.mha", volume(), AFFINE, CompressedDataSize=None)
    content = path.read_bytes()
    header = content[: content.index(b"LOCAL\n") + len(b"LOCAL\n")]
    path.write_bytes(header + compress(volume().tobytes(order="F")))
    np.testing.assert_array_equal(read_volume(path)[0], volume())
    path.write_bytes(header + compress(bytes(1 << 26)))
    assert "fewer or more voxels" in refusal(path)


changes = st.lists(
    st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=4
)


@given(changes, st.booleans())
@settings(
    max_examples=120,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_any_damaged_header_is_refused_or_read_as_it_says(tmp_path, changes, compressed):
    path = write_metaimage(tmp_path / "x.mha", volume(), AFFINE, compressed=compressed)
    content = bytearray(path.read_bytes())
    for where, value in changes:
        content[int(where * content.index(b"LOCAL"))] = value
    path.write_bytes(content)
    try:
        read, grid = read_volume(path)
    except InputError as refusal:
        assert str(path) in str(refusal) and "\n" not in str(refusal)
        return
    # Of the bytes of the voxels none can go astray: only what they are called may have changed.
    assert read.size * 4 == volume().nbytes and grid.shape == read.shape
    assert np.isfinite(grid.affine).all()


# Wherever a file is accepted


def test_a_mask_lies_exactly_where_its_image_does(tmp_path):
    source = write_metaimage(tmp_path / "x.mha", volume(), AFFINE)
    write_like(tmp_path / "mask.nii.gz", volume() > 0, source)
    mask, grid = read_mask(tmp_path / "mask.nii.gz")
    np.testing.assert_array_equal(mask, volume() > 0)
    np.testing.assert_array_equal(grid.affine, read_volume(source)[1].affine.astype(np.float32))


def test_a_study_of_metaimages_is_that_of_nifti(cohort, tmp_path):
    """In a layout, in a table, as a folder, and named by options."""
    files = find_studies(cohort)[1]
    folder = tmp_path / "cohort" / files.study
    for modality, path in files.images.items():
        as_metaimage(path, folder / modality.upper() / f"{modality.upper()}.mha")
    for (rater, modality), path in files.masks.items():
        as_metaimage(path, folder / "Masks" / rater / f"{modality}.mha")
    table = tmp_path / "cohort" / "studies.csv"
    names = [f"{files.study}/{m}/{m}.mha" for m in ("ADC", "DWI")]
    table.write_text("study,adc,dwi\n" + ",".join([files.study, *names]) + "\n")
    expected = read_study(files)
    (found,), (listed,) = find_studies(folder.parent), find_studies(table)
    named = pair_of_files(*(str(folder.parent / name) for name in names))
    assert find_cases([str(folder)]) == [found] and named.study == files.study
    assert found.masks.keys() == files.masks.keys() and not listed.masks
    for other in (found, listed, named):
        study = read_study(other)
        for modality, image in expected.images.items():
            np.testing.assert_array_equal(study.images[modality], image)
        for key, mask in study.masks.items():
            np.testing.assert_array_equal(mask, expected.masks[key])


class Bright:
    """Predicts the brighter half of each image."""

    modalities, threshold, version, computed_by = ("adc", "dwi"), 0.5, None, "a test"

    def predict(self, images):
        """1 above the mean."""
        return {m: (image > image.mean()).astype(np.float32) for m, image in images.items()}


def test_predictions_for_metaimages_are_nifti_on_their_grid(cohort, tmp_path):
    files = find_studies(cohort)[1]
    paths = {m: as_metaimage(p, tmp_path / f"s_{m}.mha") for m, p in files.images.items()}
    predict_cohort(
        Bright(), [pair_of_files(*map(str, paths.values()))], tmp_path / "out", model="bright"
    )
    for modality, path in paths.items():
        image, grid = read_volume(path)
        mask, own = read_mask(tmp_path / "out" / f"s_{modality}_mask.nii.gz")
        np.testing.assert_array_equal(mask, image > image.mean())
        np.testing.assert_allclose(own.affine, grid.affine, atol=1e-5)
        assert Grid(mask.shape, own.affine).agrees(grid)
