"""Prediction: masks come back on the grid of the image they belong to."""

import nibabel
import numpy as np
import pytest

from strokeseg_tf.cohort import predict_cohort
from strokeseg_tf.config import SMALL
from strokeseg_tf.models.variants import build_model
from strokeseg_tf.prediction.keras_engine import KerasEngine
from strokeseg_tf.prediction.network import NetworkPredictor
from strokeseg_tf.prediction.study import predict_study
from tfrecord_tools.errors import InputError
from tfrecord_tools.layouts import find_studies
from tfrecord_tools.study import read_study
from tfrecord_tools.study_files import StudyFiles

SETTINGS = SMALL.replace(model={"filters": [2, 3, 4], "bottleneck": 4, "image_size": 32}).model


@pytest.fixture(scope="module")
def predictor():
    import keras

    keras.utils.set_random_seed(1)
    return NetworkPredictor(KerasEngine(build_model(SETTINGS)))


def write_image(path, shape, affine, seed):
    voxels = np.random.default_rng(seed).uniform(0.3, 3, shape).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(voxels, affine), path)
    return path


LAS = np.diag([-2.0, 2, 6, 1])
OBLIQUE = np.array([[1.9, 0.3, 0.4, -80], [-0.3, 1.9, 0.6, -90], [-0.1, -0.3, 6, 20], [0, 0, 0, 1]])
SAGITTAL = np.array([[0, 0, 6.0, -60], [2, 0, 0, -40], [0, 2, 0, -40], [0, 0, 0, 1]])


@pytest.mark.parametrize(
    ("affine", "shape"),
    [(LAS, (24, 20, 5)), (OBLIQUE, (24, 20, 5)), (SAGITTAL, (24, 20, 9)), (LAS, (24, 20, 5, 1))],
    ids=["LAS", "oblique", "sagittal", "trailing axis"],
)
def test_masks_have_the_exact_shape_and_affine_of_their_image(predictor, tmp_path, affine, shape):
    images = {
        m: write_image(tmp_path / f"{m}.nii.gz", shape, affine, i)
        for i, m in enumerate(("adc", "dwi"))
    }
    predict_cohort(
        predictor, [StudyFiles("s", images)], tmp_path / "out", model="m", probabilities=True
    )
    for modality, source in images.items():
        mask = nibabel.load(tmp_path / "out" / f"s_{modality}_mask.nii.gz")
        probability = nibabel.load(tmp_path / "out" / f"s_{modality}_probability.nii.gz")
        for written in (mask, probability):
            assert written.shape == nibabel.load(source).shape
            np.testing.assert_array_equal(written.affine, nibabel.load(source).affine)
        assert mask.get_data_dtype() == np.uint8
        assert set(np.unique(mask.dataobj)) <= {0, 1}
        np.testing.assert_array_equal(
            np.asarray(mask.dataobj) == 1, np.asarray(probability.dataobj) > 0.5
        )


def test_an_adc_on_another_grid_gets_its_mask_on_that_grid(predictor, tmp_path):
    adc = write_image(tmp_path / "adc.nii.gz", (12, 10, 5), np.diag([-4.0, 4, 6, 1]), 0)
    dwi = write_image(tmp_path / "dwi.nii.gz", (24, 20, 5), LAS, 1)
    study = read_study(StudyFiles("s", {"adc": adc, "dwi": dwi}))
    predictions = predict_study(predictor, study)
    assert predictions["adc"].mask.shape == (12, 10, 5)
    assert predictions["dwi"].mask.shape == (24, 20, 5)


def test_the_unit_of_adc_does_not_change_the_prediction(predictor):
    rng = np.random.default_rng(0)
    images = {m: rng.uniform(0, 3, (4, 24, 20)).astype(np.float32) for m in ("adc", "dwi")}
    scaled = images | {"adc": images["adc"] * np.float32(1e-3)}
    one, other = predictor.predict(images), predictor.predict(scaled)
    for modality in one:
        np.testing.assert_allclose(one[modality], other[modality], atol=1e-5)


def test_the_number_of_slices_in_a_batch_does_not_change_the_prediction(predictor):
    rng = np.random.default_rng(0)
    images = {m: rng.uniform(0, 3, (9, 24, 20)).astype(np.float32) for m in ("adc", "dwi")}
    whole = predictor.predict(images)
    logits = predictor.logits(predictor.preprocess(images))
    single = [
        predictor.logits({m: x[i : i + 1] for m, x in predictor.preprocess(images).items()})
        for i in range(9)
    ]
    for modality in whole:
        joined = np.concatenate([part[modality] for part in single])
        # Kernels add in another order in batches of another size.
        np.testing.assert_allclose(joined, logits[modality], atol=1e-3)


def test_a_bad_study_does_not_stop_the_others(predictor, cohort, tmp_path):
    good = find_studies(cohort)[0]
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes(good.images["dwi"].read_bytes()[:200])
    bad = StudyFiles("bad", {"adc": good.images["adc"], "dwi": broken})
    result = predict_cohort(predictor, [bad, good], tmp_path / "out", model="m")
    assert list(result["studies"]) == [good.study]
    assert "broken.nii.gz" in result["failed"]["bad"]
    assert (tmp_path / "out" / f"{good.study}_adc_mask.nii.gz").is_file()


def test_nothing_is_written_when_every_study_fails(predictor, cohort, tmp_path):
    one = find_studies(cohort)[0]
    only_adc = StudyFiles("s", {"adc": one.images["adc"]})
    with pytest.raises(InputError, match="no dwi"):
        predict_cohort(predictor, [only_adc], tmp_path / "out", model="m")
    assert list(tmp_path.iterdir()) == []


def test_no_study_id_leaves_the_output_folder(predictor, cohort, tmp_path):
    images = find_studies(cohort)[0].images
    ids = ["../../escape", "/etc/passwd", "Étude 1", "x" * 300]
    studies = [StudyFiles(name, images) for name in ids]
    predict_cohort(predictor, studies, tmp_path / "deep" / "out", model="m")
    written = {p for p in tmp_path.rglob("*") if p.is_file()}
    assert len(written) == 2 * len(ids) + 1
    assert all(p.parent == tmp_path / "deep" / "out" for p in written)


def test_slices_that_show_nothing_are_computed_once_and_give_the_same_bits(predictor, monkeypatch):
    rng = np.random.default_rng(0)
    images = {m: rng.uniform(-1, 3, (21, 24, 20)).astype(np.float32) for m in ("adc", "dwi")}
    for volume in images.values():
        volume[[0, 1, 9, 18, 19, 20]] = 0
    images["dwi"][9] = 1  # Constant too, but otherwise.
    sizes = []
    engine = predictor.engine
    monkeypatch.setattr(predictor, "engine", lambda x: sizes.append(len(x["adc"])) or engine(x))
    skipping = predictor.predict(images)
    assert sizes == [7, 7, 7]  # 17 of 21.
    whole = predictor.restore(predictor.logits(predictor.preprocess(images)), 24, 20)
    for modality in whole:
        np.testing.assert_array_equal(skipping[modality], whole[modality])
    images = {m: volume[[0, *range(2, 9), 1, 19, 20]] for m, volume in images.items()}
    sizes.clear()
    predictor.predict(images)
    assert sum(sizes) == 12 and len(sizes) == 2
