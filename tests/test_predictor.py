"""`strokeseg_tf.Predictor`: arrays, nibabel images and paths give what `predict` writes."""

from concurrent.futures import ThreadPoolExecutor

import nibabel
import numpy as np
import pytest

from strokeseg_tf import Predictor
from strokeseg_tf.config import SMALL
from strokeseg_tf.models.variants import build_model
from strokeseg_tf.prediction.ensemble import Ensemble
from strokeseg_tf.prediction.keras_engine import KerasEngine
from strokeseg_tf.prediction.network import NetworkPredictor
from strokeseg_tf.prediction.study import predict_study
from tfrecord_tools.errors import InputError
from tfrecord_tools.layouts import find_studies
from tfrecord_tools.study import read_study

SETTINGS = SMALL.replace(model={"filters": [2, 3], "bottleneck": 3, "image_size": 32}).model


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    import keras

    folder = tmp_path_factory.mktemp("models")
    for seed in range(2):
        keras.utils.set_random_seed(seed)
        build_model(SETTINGS).save(folder / f"{seed}.keras")
    return [folder / f"{seed}.keras" for seed in range(2)]


@pytest.fixture(scope="module")
def predictor(models):
    return Predictor(models[0], threshold=0.01)


@pytest.fixture(scope="module")
def files(cohort):
    return find_studies(cohort)[0]


@pytest.fixture(scope="module")
def images(files):
    return {m: nibabel.load(path) for m, path in files.images.items()}


@pytest.fixture(scope="module")
def expected(predictor, files):
    return predict_study(predictor._predictor, read_study(files))


def same(one, other):
    assert one.keys() == other.keys()
    for modality in one:
        np.testing.assert_array_equal(one[modality].probability, other[modality].probability)
        np.testing.assert_array_equal(one[modality].mask, other[modality].mask)
        assert one[modality].volume_ml == pytest.approx(other[modality].volume_ml)


def test_paths_and_images_in_memory_give_the_same(predictor, files, images, expected):
    same(predictor.predict(**files.images), expected)
    same(predictor.predict(str(files.images["adc"]), str(files.images["dwi"])), expected)
    same(predictor.predict(**images), expected)


def test_arrays_come_back_in_their_own_order(predictor, files, expected):
    study = read_study(files)
    result = predictor.predict(**study.images, spacing_mm=study.grid.spacing_mm)
    for modality, prediction in result.items():
        assert prediction.mask.shape == study.images[modality].shape
        wanted = study.grid.to_slices(expected[modality].probability)
        np.testing.assert_array_equal(prediction.probability, wanted)
        assert prediction.volume_ml == pytest.approx(expected[modality].volume_ml)


def test_an_image_on_another_grid_gets_its_mask_there(predictor, images):
    adc = images["adc"]
    coarse = nibabel.Nifti1Image(
        adc.get_fdata(dtype=np.float32)[::2, ::2], adc.affine @ np.diag([2, 2, 1, 1])
    )
    result = predictor.predict(adc=coarse, dwi=images["dwi"])
    assert result["adc"].mask.shape == coarse.shape
    assert result["dwi"].mask.shape == images["dwi"].shape
    np.testing.assert_allclose(result["adc"].grid.affine, coarse.affine)


def test_threads_do_not_disturb_each_other(predictor, cohort):
    studies = [read_study(files).images for files in find_studies(cohort)]
    one_by_one = [predictor.predict(**study) for study in studies]
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(lambda study: predictor.predict(**study), studies * 2))
    for one, other in zip(one_by_one * 2, together, strict=True):
        same(one, other)


def test_several_models_and_mirrors_are_the_mean_of_all(models, images):
    arrays = {m: np.moveaxis(x.get_fdata(dtype=np.float32), 2, 0) for m, x in images.items()}
    result = Predictor(models, tta=True, threshold=0.01).predict(**arrays, uncertainty=True)
    views = []
    for model in models:
        single = Predictor(model, threshold=0.01)
        for axes in ((), (1,)):
            seen = single.predict(**{m: np.flip(x, axes) for m, x in arrays.items()})
            views.append(np.flip(seen["dwi"].probability, axes))
    np.testing.assert_allclose(result["dwi"].probability, np.mean(views, axis=0), atol=1e-6)
    np.testing.assert_allclose(result["dwi"].uncertainty, np.std(views, axis=0), atol=1e-6)


@pytest.mark.parametrize(("flips", "count"), [("none", 2), ("left_right", 2), ("both", 4)])
def test_mirrors_are_those_the_model_learnt_with(flips, count):
    network = NetworkPredictor(KerasEngine(build_model(SETTINGS)), flips=flips)
    seen = []
    network.predict = lambda images: (
        seen.append(images["adc"]) or {m: np.zeros((3, 8, 8), np.float32) for m in images}
    )
    adc = np.arange(192, dtype=np.float32).reshape(3, 8, 8)
    Ensemble([network], mirrored=True).predict({"adc": adc, "dwi": adc})
    assert len({image.tobytes() for image in seen}) == len(seen) == count
    np.testing.assert_array_equal(seen[1], adc[:, ::-1])


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, "nothing to predict"),
        ({"adc": np.zeros((3, 8, 8))}, "adc is constant"),
        ({"adc": np.ones((8, 8))}, "must be a volume"),
        ({"adc": np.array([[["a"]]])}, "must be a volume"),
        ({"adc": np.full((3, 8, 8), np.nan)}, "adc has 192 voxels that are NaN"),
        ({"adc": np.eye(8)[None]}, "there is no dwi"),
        ({"adc": np.eye(8)[None], "dwi": np.eye(9)[None]}, "must have one shape"),
        ({"adc": "adc.nii.gz", "dwi": np.eye(9)[None]}, "must both be paths"),
        ({"adc": "missing.nii.gz", "dwi": "missing.nii.gz"}, "does not exist"),
        ({"adc": np.eye(8)[None], "dwi": np.eye(8)[None], "uncertainty": True}, "there is one"),
    ],
)
def test_what_cannot_be_predicted_is_told(predictor, given, told):
    with pytest.raises(InputError, match=told):
        predictor.predict(**given)
