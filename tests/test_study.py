"""A study read from its files: one grid, one unit, boolean masks, or a refusal that helps."""

import nibabel as nib
import numpy as np
import pytest

from tfrecord_tools.errors import InputError
from tfrecord_tools.grid import resample
from tfrecord_tools.study import read_study
from tfrecord_tools.study_files import StudyFiles

SHAPE = (12, 10, 6)
AXIAL = np.diag([0.9, 0.9, 6, 1])
LAS = np.array([[-0.9, 0, 0, 90], [0, 0.9, 0, -80], [0, 0, 6, 7], [0, 0, 0, 1.0]])
OBLIQUE = nib.affines.from_matvec(
    nib.eulerangles.euler2mat(0.2, 0.1, 0.05) @ np.diag([-0.9, 0.9, 6]), [50, -60, 20]
)
SAGITTAL = np.array([[0, 0, 6, 0], [0.9, 0, 0, 0], [0, 0.9, 0, 0], [0, 0, 0, 1.0]])


def save(path, array, affine=AXIAL, slope=None):
    image = nib.Nifti1Image(array, affine)
    if slope:
        image.header.set_slope_inter(slope, 0)
    nib.save(image, path)
    return path


def adc_volume(shape=SHAPE):
    """ADC in 1e-3 mm2/s: 0.7 to 1.1, as in brain."""
    return np.random.default_rng(0).uniform(0.7, 1.1, shape).astype(np.float32)


def dwi_volume(shape=SHAPE):
    return np.random.default_rng(1).uniform(100, 900, shape).astype(np.float32)


def lesion(shape=SHAPE):
    mask = np.zeros(shape, np.uint8)
    mask[3:6, 3:7, 2:4] = 1
    return mask


@pytest.fixture
def files(tmp_path):
    """A study as it should be; tests overwrite its files."""
    return StudyFiles(
        "s1",
        {
            "adc": save(tmp_path / "adc.nii.gz", adc_volume()),
            "dwi": save(tmp_path / "dwi.nii.gz", dwi_volume()),
        },
        {("r1", "dwi"): save(tmp_path / "mask.nii.gz", lesion())},
    )


def stacked(array):
    """The slices of an AXIAL file: towards superior, left, anterior."""
    return np.moveaxis(array[::-1], 2, 0)


def refusal(files, **options):
    """The text of the refusal, which is one line."""
    with pytest.raises(InputError) as caught:
        read_study(files, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_arrays_are_stacks_of_slices_with_the_voxels_of_the_files(files):
    study = read_study(files)
    np.testing.assert_array_equal(study.images["dwi"], stacked(dwi_volume()))
    np.testing.assert_array_equal(study.images["adc"], stacked(adc_volume()))
    np.testing.assert_array_equal(study.masks["r1", "dwi"], stacked(lesion()) > 0)
    assert study.adc_grid is None and study.grid.shape == SHAPE


def test_the_masks_tell_the_group(files):
    assert read_study(files).group == "stroke"
    assert read_study(files.without_masks()).group == "unknown"
    save(files.masks["r1", "dwi"], np.zeros(SHAPE, np.uint8))
    assert read_study(files).group == "control"


@pytest.mark.parametrize("modality", ["adc", "dwi"])
def test_one_modality_is_a_study(files, modality):
    single = StudyFiles("s1", {modality: files.images[modality]})
    assert set(read_study(single).images) == {modality}


# The unit of ADC


@pytest.mark.parametrize(
    ("factor", "dtype"), [(1, np.float32), (1e-3, np.float64), (1e3, np.int16)]
)
@pytest.mark.parametrize("with_dwi", [True, False])
def test_one_unit_comes_from_three(files, factor, dtype, with_dwi):
    save(files.images["adc"], (adc_volume() * factor).astype(dtype))
    images = files.images if with_dwi else {"adc": files.images["adc"]}
    study = read_study(StudyFiles("s1", images))
    assert study.adc_scale == pytest.approx(1 / factor)
    standard = study.in_standard_unit("adc")
    np.testing.assert_allclose(standard, stacked(adc_volume()), atol=1e-3)
    assert standard.dtype == np.float32


@pytest.mark.parametrize("factor", [0.05, 30, 1e5, -1])
def test_an_ambiguous_unit_is_refused_until_it_is_told(files, factor):
    save(files.images["adc"], adc_volume() * np.float32(factor))
    text = refusal(files)
    assert "--adc-unit (1e-3, mm2/s, 1e-6)" in text and "adc.nii.gz" in text
    assert read_study(files, "1e-6").adc_scale == 1e-3


def test_an_unknown_unit_is_refused(files):
    assert "unknown ADC unit 'furlong'; use auto, 1e-3" in refusal(files, adc_unit="furlong")


# Masks and grids


def test_a_mask_with_a_scale_slope_keeps_the_whole_lesion(files):
    save(files.masks["r1", "dwi"], lesion() * 255, slope=0.00392156862)
    assert read_study(files).masks["r1", "dwi"].sum() == lesion().sum()


@pytest.mark.parametrize("what", ["mask", "adc"])
def test_affines_that_agree_to_1e_7_are_one_grid(files, what):
    path, array = {
        "mask": (files.masks["r1", "dwi"], lesion()),
        "adc": (files.images["adc"], adc_volume()),
    }[what]
    save(path, array, AXIAL + 1e-7)
    assert read_study(files).adc_grid is None


@pytest.mark.parametrize(
    ("shape", "affine"),
    [((12, 10, 5), AXIAL), (SHAPE, LAS), (SHAPE, AXIAL + np.eye(4)), ((10, 12, 6), AXIAL)],
)
def test_a_mask_on_a_grid_of_its_own_is_refused(files, shape, affine):
    save(files.masks["r1", "dwi"], lesion(shape), affine)
    text = refusal(files)
    assert "mask.nii.gz lies on another grid than its dwi image" in text
    assert "draw or resample it on that image" in text


def test_adc_on_another_grid_is_resampled_and_that_is_remembered(files):
    shape, affine = (24, 20, 6), np.diag([0.45, 0.45, 6, 1])
    save(files.images["adc"], adc_volume(shape), affine)
    mask_path = files.images["adc"].with_name("adc_mask.nii.gz")
    own = lesion(shape)
    masks = dict(files.masks) | {("r1", "adc"): save(mask_path, own, affine)}
    study = read_study(StudyFiles("s1", files.images, masks))
    assert study.adc_grid.shape == shape and study.grid.shape == SHAPE
    assert study.own_grid("adc") is study.adc_grid and study.own_grid("dwi") is study.grid
    expected = resample(adc_volume(shape), study.adc_grid, study.grid, order=1)
    np.testing.assert_array_equal(study.images["adc"], study.grid.to_slices(expected))
    np.testing.assert_array_equal(study.masks["r1", "adc"], stacked(own[::2, ::2] > 0))
    assert study.masks["r1", "dwi"].sum() == lesion().sum()


def test_images_that_do_not_overlap_are_refused(files):
    save(files.images["adc"], adc_volume(), nib.affines.from_matvec(AXIAL[:3, :3], [900, 0, 0]))
    for unit in ("auto", "1e-3"):
        text = refusal(files, adc_unit=unit)
        assert "adc.nii.gz shows nothing where" in text and "dwi.nii.gz lies" in text


@pytest.mark.parametrize("affine", [AXIAL, LAS, OBLIQUE], ids=["RAS", "LAS", "oblique"])
def test_any_orientation_keeps_its_voxels_and_affine(files, affine):
    for path, array in (
        (files.images["adc"], adc_volume()),
        (files.images["dwi"], dwi_volume()),
        (files.masks["r1", "dwi"], lesion()),
    ):
        save(path, array, affine)
    study = read_study(files)
    np.testing.assert_array_equal(study.grid.to_volume(study.images["dwi"]), dwi_volume())
    np.testing.assert_allclose(study.grid.affine, affine, rtol=1e-6)
    assert study.grid.spacing_mm == pytest.approx((6, 0.9, 0.9))


def test_a_volume_stored_sagittally_is_cut_axially(files):
    save(files.images["dwi"], dwi_volume(), SAGITTAL)
    study = read_study(StudyFiles("s1", {"dwi": files.images["dwi"]}))
    assert study.images["dwi"].shape == (10, 6, 12)
    np.testing.assert_array_equal(study.grid.to_volume(study.images["dwi"]), dwi_volume())


# Voxels


def test_a_trailing_axis_of_length_one_is_dropped(files):
    save(files.images["dwi"], dwi_volume()[..., None])
    assert read_study(files).grid.shape == SHAPE


def test_float64_with_small_negative_values_is_read(files):
    array = dwi_volume().astype(np.float64)
    array[0, 0, :] = -0.3
    save(files.images["dwi"], array)
    assert read_study(files).images["dwi"].min() == np.float32(-0.3)


def test_integers_with_a_slope_are_read(files):
    stored = (dwi_volume() * 10).astype(np.int16)
    save(files.images["dwi"], stored, slope=0.5)
    expected = (stored * 0.5).astype(np.float32)
    np.testing.assert_array_equal(read_study(files).images["dwi"], stacked(expected))


@pytest.mark.parametrize("modality", ["adc", "dwi"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_voxels_that_are_no_float32_numbers_are_refused(files, modality, value):
    array = adc_volume().astype(np.float64)
    array[1, 2, :3] = value
    save(files.images[modality], array)
    text = refusal(files)
    assert f"{modality}.nii.gz has 3 voxels that are NaN or infinite; replace them" in text


@pytest.mark.parametrize("value", [0, 7])
def test_a_constant_volume_is_refused(files, value):
    save(files.images["dwi"], np.full(SHAPE, value, np.int16))
    assert f"dwi.nii.gz is constant ({value} everywhere)" in refusal(files)


def test_a_4d_volume_is_refused(files):
    save(files.images["dwi"], np.stack([dwi_volume()] * 2, axis=-1))
    text = refusal(files)
    assert "dwi.nii.gz is 4-D with shape (12, 10, 6, 2)" in text and "b = 1000" in text


@pytest.mark.parametrize("what", ["adc", "dwi", "mask"])
def test_a_missing_or_truncated_file_is_named(files, what):
    path = {**files.images, "mask": files.masks["r1", "dwi"]}[what]
    path.write_bytes(path.read_bytes()[:-20])
    assert f"{what}.nii.gz cannot be read" in refusal(files)
    path.unlink()
    assert f"{what}.nii.gz does not exist" in refusal(files)


# What a study must say of itself


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("", {"adc": "a"}), "no id"),
        (("s1", {}), "neither an ADC nor a DWI"),
        (("s1", {"adc": "a"}, {}, "", "healthy"), "unknown group 'healthy'"),
        (("s\n1", {"adc": "a"}), "unprintable"),
        (("s\udcff", {"adc": "a"}), "unprintable"),
    ],
)
def test_an_impossible_study_is_refused(arguments, words):
    with pytest.raises(InputError, match=words):
        StudyFiles(*arguments)


def test_the_real_cases_have_one_unit(isles22):
    from tfrecord_tools.layouts import find_studies

    scales = {}
    for files in find_studies(isles22):
        study = read_study(files)
        scales[files.patient[-4:]] = study.adc_scale
        brain = study.in_standard_unit("adc")[study.images["dwi"] > study.images["dwi"].mean()]
        assert 0.6 < np.median(brain) < 1.2
    assert scales == {"0001": 1, "0002": 1000, "0009": 1}
