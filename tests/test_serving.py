"""The exported SavedModel: raw studies in, what `predict` gives out, by TensorFlow alone."""

import json
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from strokeseg_tf.config import SMALL
from strokeseg_tf.loading import SavedModelPredictor, load_predictor
from strokeseg_tf.models.variants import build_model
from strokeseg_tf.prediction.engines import Computing
from strokeseg_tf.preprocessing import preprocess, restore, volume_range
from strokeseg_tf.runs import Run
from strokeseg_tf.serving.export import export
from strokeseg_tf.serving.layout import DESCRIPTION
from tfrecord_tools.errors import InputError
from tfrecord_tools.reader import read_studies


def make_run(folder, **model):
    """A run folder with untrained weights: what is exported does not matter here."""
    import keras

    keras.utils.set_random_seed(3)
    config = SMALL.replace(model={"filters": [2, 3], "bottleneck": 3, "image_size": 32} | model)
    run = Run(folder)
    folder.mkdir(parents=True)
    run.write_config(config)
    build_model(config.model).save(run.model_file)
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run") / "run")


@pytest.fixture(scope="module")
def served(run, tmp_path_factory):
    return export(run.folder, tmp_path_factory.mktemp("served") / "strokeseg")


@pytest.fixture(scope="module")
def loaded(served):
    return load_predictor(served)


@pytest.fixture(scope="module")
def model(served):
    # It owns the variables: it must live as long as its signatures.
    return tf.saved_model.load(str(served))


@pytest.fixture
def signatures(model):
    return model.signatures


@pytest.fixture
def study():
    rng = np.random.default_rng(4)
    return {m: rng.normal(500, 200, (13, 40, 33)).astype(np.float32) for m in ("adc", "dwi")}


def test_served_probabilities_equal_those_of_predict(run, loaded, shards):
    predictor, signature = (
        load_predictor(run.folder, computing=Computing(precision="float32")),
        loaded,
    )
    for study in read_studies(shards, "test"):
        here, there = predictor.predict(study.images), signature.predict(study.images)
        for modality in here:
            np.testing.assert_allclose(here[modality], there[modality], atol=1e-5)
            assert there[modality].shape == study.images[modality].shape


def test_the_unit_of_an_image_does_not_matter(loaded, study):
    expected = loaded.predict(study)
    for scale in (1e-3, 1e3):
        scaled = {"adc": study["adc"] * np.float32(scale), "dwi": study["dwi"]}
        for m, probability in loaded.predict(scaled).items():
            np.testing.assert_allclose(probability, expected[m], atol=1e-5)


def test_whole_numbers_of_16_bits_are_answered_as_floats_are(signatures):
    whole = {m: np.random.default_rng(5).integers(-99, 2999, (3, 40, 33)) for m in ("adc", "dwi")}
    shorts = {m: tf.constant(x, tf.int16) for m, x in whole.items()}
    floats = {m: tf.constant(x, tf.float32) for m, x in whole.items()}
    assert_same(signatures["serving_int16"](**shorts), signatures["serving_default"](**floats))


def test_parts_of_a_preprocessed_study_are_its_whole(signatures, study):
    inputs = {m: preprocess(x, volume_range(x), 32) for m, x in study.items()}
    parts = [
        signatures["preprocessed"](**{m: x[i : i + 5] for m, x in inputs.items()})
        for i in range(0, len(inputs["adc"]), 5)
    ]
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    restored = {name: restore(x, *study["adc"].shape[1:]) for name, x in joined.items()}
    assert_same(restored, signatures["serving_default"](**study))


def test_masks_are_the_probabilities_above_the_threshold_of_the_run(tmp_path, study):
    run = make_run(tmp_path / "run", variant="unimodal", modality="adc")
    run.write_threshold({"threshold": 0.01, "split": "validation", "rater": "r1", "dice": {}})
    model = tf.saved_model.load(str(export(run.folder, tmp_path / "m")))
    study = {"adc": tf.constant(study["adc"])}
    masks = model.signatures["study_masks"](**study)
    probabilities = model.signatures["serving_default"](**study)
    for m in study:
        expected = probabilities[f"{m}_probability"].numpy() > 0.01
        assert 0 < expected.mean() < 1
        assert masks[f"{m}_mask"].dtype == tf.uint8
        np.testing.assert_array_equal(masks[f"{m}_mask"], expected)


def test_the_model_describes_itself(served, signatures):
    answer = signatures["description"]
    description = json.loads(answer(request=tf.constant("?"))["description"].numpy())
    assert description["variant"] == "dual_v1"
    assert description["image_size"] == 32
    stored = json.loads((served / DESCRIPTION).read_text())
    assert description == {key: stored[key] for key in description}


def assert_same(some, others):
    assert sorted(some) == sorted(others)
    for name, value in some.items():
        np.testing.assert_allclose(value, others[name], atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 9, 50), (8, 32, 32), (17, 40, 33)])
def test_any_number_of_slices_of_any_size_is_answered_on_its_own_grid(loaded, shape):
    study = {m: np.random.default_rng(0).random(shape, np.float32) for m in ("adc", "dwi")}
    for probability in loaded.predict(study).values():
        assert probability.shape == shape
        assert probability.min() >= 0 and probability.max() <= 1


def test_it_loads_and_answers_without_this_package(served):
    program = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("strokeseg_tf", "tfrecord_tools", "tuning"):
            raise ImportError(name)
sys.meta_path.insert(0, Absent())
import tensorflow as tf
model = tf.saved_model.load(sys.argv[1])
study = {m: tf.random.uniform((3, 20, 30)) for m in ("adc", "dwi")}
answer = model.signatures["serving_default"](**study)
print(sorted((name, tuple(value.shape)) for name, value in answer.items()))
"""
    result = subprocess.run(
        [sys.executable, "-c", program, str(served)], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == (
        "[('adc_probability', (3, 20, 30)), ('dwi_probability', (3, 20, 30))]"
    )


@pytest.mark.parametrize(
    ("adc", "dwi", "says"),
    [
        (np.zeros((3, 8, 8)), np.zeros((3, 8, 9)), "one shape"),
        (np.full((3, 8, 8), np.nan), np.zeros((3, 8, 8)), "NaN"),
        (np.zeros((3, 8, 8)), np.full((3, 8, 8), -np.inf), "infinite"),
        (np.zeros((0, 8, 8)), np.zeros((0, 8, 8)), "at least one slice"),
        (np.zeros((3, 8, 0)), np.zeros((3, 8, 0)), "at least one slice"),
        (np.zeros((1, 4097, 1)), np.zeros((1, 4097, 1)), "at most 2048 slices of 4096"),
        (np.zeros((2049, 1, 1)), np.zeros((2049, 1, 1)), "at most 2048 slices of 4096"),
    ],
)
@pytest.mark.parametrize("name", ["serving_default", "study_masks"])
def test_bad_requests_are_refused_from_inside_the_graph(signatures, name, adc, dwi, says):
    with pytest.raises(tf.errors.InvalidArgumentError, match=says):
        signatures[name](adc=tf.constant(adc, tf.float32), dwi=tf.constant(dwi, tf.float32))


def test_bad_slices_are_refused_from_inside_the_graph(signatures):
    for count, value, says in [(0, 0, "at least one slice"), (2, np.nan, "NaN")]:
        slices = tf.fill((count, 32, 32, 1), tf.constant(value, tf.float32))
        with pytest.raises(tf.errors.InvalidArgumentError, match=says):
            signatures["preprocessed"](adc=slices, dwi=slices)


def test_a_precision_that_is_none_is_refused_in_one_line(run, tmp_path):
    with pytest.raises(InputError, match="float32, bfloat16, int8"):
        export(run.folder, tmp_path / "m", precision="int4")


@pytest.mark.parametrize("where", ["run", "export"])
@pytest.mark.parametrize(
    ("adc", "dwi", "says"),
    [
        (np.zeros((4, 8, 8)), np.zeros((5, 8, 8)), "one shape"),
        (np.full((3, 8, 8), np.nan), np.zeros((3, 8, 8)), "adc has NaN"),
        (np.zeros((0, 8, 8)), np.zeros((0, 8, 8)), "at least one slice"),
        (np.zeros((8, 8)), np.zeros((8, 8)), "at least one slice"),
        (np.zeros((1, 4097, 1)), np.zeros((1, 4097, 1)), "at most 2048 slices of 4096"),
    ],
)
def test_bad_studies_are_refused_in_one_line_before_the_model(run, loaded, where, adc, dwi, says):
    predictor = loaded if where == "export" else load_predictor(run.folder)
    with pytest.raises(InputError, match=says):
        predictor.predict({"adc": adc, "dwi": dwi})


def test_a_model_of_others_is_refused_in_one_line(tmp_path):
    class Doubling(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec((None,), name="x")])
        def serve(self, x):
            return {"y": 2 * x}

    model = Doubling()
    tf.saved_model.save(model, str(tmp_path / "1"), signatures=model.serve)
    with pytest.raises(InputError, match="no model of this package: serving_default takes x"):
        load_predictor(tmp_path)


def test_versions_count_up_and_the_highest_is_loaded(tmp_path):
    run = make_run(tmp_path / "run", variant="unimodal", modality="adc")
    assert export(run.folder, tmp_path / "m", version=3).name == "3"
    assert export(run.folder, tmp_path / "m").name == "4"
    with pytest.raises(InputError, match="has a version 4; choose another --version"):
        export(run.folder, tmp_path / "m", version=4)
    assert isinstance(load_predictor(tmp_path / "m"), SavedModelPredictor)


@pytest.mark.slow
def test_a_unimodal_export_takes_its_one_modality(tmp_path):
    run = make_run(tmp_path / "run", variant="unimodal", modality="dwi")
    predictor = load_predictor(export(run.folder, tmp_path / "served"))
    assert predictor.modalities == ("dwi",)
    answer = predictor.predict({"dwi": np.ones((2, 8, 8), np.float32)})
    assert list(answer) == ["dwi"]


def test_a_model_file_with_custom_code_is_refused(tmp_path):
    import keras

    model = keras.Sequential([keras.Input((4,)), keras.layers.Lambda(lambda x: x + 1)])
    model.save(tmp_path / "evil.keras")
    with pytest.raises(InputError, match="cannot be loaded"):
        load_predictor(tmp_path / "evil.keras")


@pytest.mark.parametrize("content", ["nothing", "empty folder", "garbage"])
def test_what_is_no_model_is_said_so(tmp_path, content):
    path = tmp_path / "model.keras"
    if content == "empty folder":
        path.mkdir()
    if content == "garbage":
        path.write_bytes(b"garbage" * 100)
    with pytest.raises(InputError, match="model.keras"):
        load_predictor(path)
