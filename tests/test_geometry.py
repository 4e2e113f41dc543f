"""However a file is turned: the network sees one brain, and results come back to the file."""

import itertools

import nibabel as nib
import numpy as np
import pytest
from nibabel import orientations

from strokeseg_tf.cohort import predict_cohort
from strokeseg_tf.config import SMALL
from strokeseg_tf.models.variants import build_model
from strokeseg_tf.prediction.keras_engine import KerasEngine
from strokeseg_tf.prediction.network import NetworkPredictor
from tfrecord_tools.conversion import convert
from tfrecord_tools.errors import InputError
from tfrecord_tools.extraction import extract
from tfrecord_tools.grid import Grid, resample
from tfrecord_tools.nifti import read_mask, read_volume
from tfrecord_tools.study import read_study
from tfrecord_tools.study_files import StudyFiles
from tfrecord_tools.table import read_table, write_table

SETTINGS = SMALL.replace(model={"filters": [2, 3, 4], "bottleneck": 4, "image_size": 32}).model

#: All 48 ways to store a volume: which world axis each file axis follows, and which way.
CODES = [
    "".join(letters)
    for axes in itertools.permutations(["RL", "AP", "SI"])
    for letters in itertools.product(*axes)
]
STRAIGHT = np.diag([-0.9, 0.8, 6.0, 1])
STRAIGHT[:3, 3] = [110, -90, -40]
OBLIQUE = STRAIGHT.copy()
OBLIQUE[:3, :3] = nib.eulerangles.euler2mat(0.3, -0.25, 0.2) @ STRAIGHT[:3, :3]
SHAPE = (7, 6, 5)


def turn(volume, affine, codes):
    """The same volume, given in LAS, stored with axes that run along `codes`; by nibabel alone."""
    stored = orientations.ornt_transform(
        orientations.axcodes2ornt("LAS"), orientations.axcodes2ornt(codes)
    )
    turned = orientations.apply_orientation(volume, stored)
    return turned, affine @ orientations.inv_ornt_aff(stored, volume.shape)


def test_there_are_48_orientations():
    assert len(set(CODES)) == 48


@pytest.mark.parametrize("affine", [STRAIGHT, OBLIQUE], ids=["straight", "oblique"])
@pytest.mark.parametrize("codes", CODES)
def test_slices_are_those_of_the_las_twin_and_go_back_exactly(affine, codes):
    twin = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    volume, turned = turn(twin, affine, codes)
    assert "".join(nib.aff2axcodes(turned)) == codes
    grid = Grid(volume.shape, turned)
    slices = grid.to_slices(volume)
    np.testing.assert_array_equal(slices, np.moveaxis(twin, 2, 0))
    assert slices.flags.c_contiguous and slices.dtype == np.float32
    np.testing.assert_array_equal(grid.to_volume(slices), volume)
    assert grid.spacing_mm == pytest.approx((6, 0.9, 0.8), rel=1e-12)
    assert grid.canonical.shape == SHAPE
    np.testing.assert_allclose(grid.canonical.affine, affine, atol=1e-12)
    assert grid.covers(Grid(SHAPE, affine)) and Grid(SHAPE, affine).covers(grid)


def test_slices_run_to_superior_left_and_anterior():
    """Said once in world coordinates, without any table of orientations."""
    for codes in CODES:
        volume, affine = turn(np.zeros(SHAPE), OBLIQUE, codes)
        index = np.moveaxis(np.indices(volume.shape), 0, -1)
        world = nib.affines.apply_affine(affine, index)
        grid = Grid(volume.shape, affine)
        right, anterior, superior = (grid.to_slices(world[..., axis]) for axis in range(3))
        assert (np.diff(superior, axis=0) > 0).all()
        assert (np.diff(right, axis=1) < 0).all()
        assert (np.diff(anterior, axis=2) > 0).all()


def test_a_las_file_is_only_cut_into_slices():
    """ISLES'22, phantoms and most of what dcm2niix writes; the arrays are the file's own."""
    volume = np.arange(np.prod(SHAPE)).reshape(SHAPE)
    slices = Grid(SHAPE, OBLIQUE).to_slices(volume)
    np.testing.assert_array_equal(slices, volume.transpose(2, 0, 1))


@pytest.mark.parametrize("codes", CODES[::7])
def test_between_two_orders_of_the_same_voxels_nothing_is_interpolated(codes):
    twin = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    volume, affine = turn(twin, OBLIQUE, codes)
    own, las = Grid(volume.shape, affine), Grid(SHAPE, OBLIQUE)
    for order in (0, 1):
        np.testing.assert_array_equal(resample(volume, own, las, order=order), twin)
        np.testing.assert_array_equal(resample(twin, las, own, order=order), volume)


# Whole studies


def image(shape, seed):
    """Smooth enough that a network untrained still draws a border through it."""
    rng = np.random.default_rng(seed)
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    return (0.9 + 0.4 * x + 0.2 * y * y - 0.1 * z + rng.normal(0, 0.05, shape)).astype(np.float32)


def save(path, volume, affine):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(volume, affine), path)
    return path


def study(folder, name="s", adc="LAS", dwi="LAS", mask=None, adc_affine=OBLIQUE, adc_shape=None):
    """A study of `(20, 24, 6)` whose files run along the given axes, drawn on by one rater."""
    shape = (20, 24, 6)
    images = {
        "adc": save(
            folder / f"{name}_adc.nii.gz", *turn(image(adc_shape or shape, 1), adc_affine, adc)
        ),
        "dwi": save(folder / f"{name}_dwi.nii.gz", *turn(image(shape, 2), OBLIQUE, dwi)),
    }
    drawn = (image(shape, 3) > 1.2).astype(np.uint8)
    path = save(folder / f"{name}_mask.nii.gz", *turn(drawn, OBLIQUE, mask or dwi))
    return StudyFiles(name, images, {("r1", "dwi"): path})


@pytest.fixture(scope="module")
def predictor():
    import keras

    keras.utils.set_random_seed(1)
    predictor = NetworkPredictor(KerasEngine(build_model(SETTINGS)))
    # An untrained network says little: the median of what it says for DWI still draws a mask.
    images = {
        m: Grid((20, 24, 6), OBLIQUE).to_slices(image((20, 24, 6), 1)) for m in ("adc", "dwi")
    }
    predictor.threshold = float(np.median(predictor.predict(images)["dwi"]))
    return predictor


def predict(predictor, files, out):
    predict_cohort(predictor, [files], out, model="m", probabilities=True)
    return {
        (modality, what): nib.load(out / f"{files.study}_{modality}_{what}.nii.gz")
        for modality in files.images
        for what in ("mask", "probability")
    }


@pytest.mark.parametrize("codes", ["LAS", "RAS", "RPI", "ASL", "SAL", "PIR"])
def test_a_prediction_turns_with_its_study(predictor, tmp_path, codes):
    original = predict(predictor, study(tmp_path / "las"), tmp_path / "out")
    files = study(tmp_path / "turned", adc=codes, dwi=codes)
    for (modality, what), found in predict(predictor, files, tmp_path / "again").items():
        source = nib.load(files.images[modality])
        assert found.shape == source.shape
        np.testing.assert_array_equal(found.affine, source.affine)
        expected, _ = turn(np.asarray(original[modality, what].dataobj), OBLIQUE, codes)
        np.testing.assert_array_equal(np.asarray(found.dataobj), expected)
        assert (modality, what) != ("dwi", "mask") or 0 < expected.sum() < expected.size


def test_an_adc_stored_in_another_order_is_the_same_study(predictor, tmp_path):
    plain = study(tmp_path / "plain")
    files = study(tmp_path / "turned", adc="PIR")
    one, other = read_study(plain), read_study(files)
    np.testing.assert_array_equal(one.images["adc"], other.images["adc"])
    original = predict(predictor, plain, tmp_path / "out")
    for (modality, what), found in predict(predictor, files, tmp_path / "again").items():
        expected = np.asarray(original[modality, what].dataobj)
        if modality == "adc":
            expected, _ = turn(expected, OBLIQUE, "PIR")
        np.testing.assert_array_equal(np.asarray(found.dataobj), expected)
        np.testing.assert_array_equal(found.affine, nib.load(files.images[modality]).affine)


@pytest.mark.parametrize("codes", ["RAS", "SPL", "AIR"])
def test_an_adc_on_another_grid_gets_its_prediction_on_that_grid(predictor, tmp_path, codes):
    coarse = OBLIQUE @ np.diag([1.5, 1.5, 1.2, 1])
    coarse[:3, 3] += 1
    other = {"adc_affine": coarse, "adc_shape": (12, 15, 5)}
    original = predict(predictor, study(tmp_path / "las", **other), tmp_path / "out")
    files = study(tmp_path / "turned", adc=codes, dwi="RPI", **other)
    for (modality, what), found in predict(predictor, files, tmp_path / "again").items():
        source = nib.load(files.images[modality])
        assert found.shape == source.shape
        np.testing.assert_array_equal(found.affine, source.affine)
        if what == "probability":
            stored = codes if modality == "adc" else "RPI"
            expected, _ = turn(np.asarray(original[modality, what].dataobj), OBLIQUE, stored)
            np.testing.assert_allclose(np.asarray(found.dataobj), expected, atol=1e-4)


@pytest.mark.parametrize("codes", ["LAS", "RAS", "PSR", "IAL"])
def test_extraction_gives_back_the_source_in_its_own_orientation(tmp_path, codes):
    home = tmp_path / "source"
    files = [study(home, "a", codes, codes)]
    write_table(home / "studies.csv", files)
    convert(home / "studies.csv", tmp_path / "shards", shares={"train": 1})
    out = extract(tmp_path / "shards", tmp_path / "out")
    for source, found in zip(files, read_table(out / "studies.csv"), strict=True):
        for modality, path in source.images.items():
            (expected, own), (volume, grid) = read_volume(path), read_volume(found.images[modality])
            np.testing.assert_array_equal(volume, expected)
            np.testing.assert_array_equal(grid.affine, own.affine)
        for key, path in source.masks.items():
            np.testing.assert_array_equal(read_mask(found.masks[key])[0], read_mask(path)[0])


def test_a_mask_stored_in_another_order_than_its_image_keeps_every_voxel(tmp_path):
    one = read_study(study(tmp_path / "plain"))
    other = read_study(study(tmp_path / "turned", mask="RPI"))
    np.testing.assert_array_equal(one.masks["r1", "dwi"], other.masks["r1", "dwi"])


def test_a_mask_mirrored_against_its_image_is_refused(tmp_path):
    """The same voxels under an affine of the other side: places differ, so it is no match."""
    files = study(tmp_path)
    mask = nib.load(files.masks["r1", "dwi"])
    save(files.masks["r1", "dwi"], np.asarray(mask.dataobj), OBLIQUE @ np.diag([-1, 1, 1, 1]))
    with pytest.raises(InputError, match="another grid"):
        read_study(files)
