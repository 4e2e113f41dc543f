"""Engines: what computes a network decides how fast it is, not what it says."""

import functools
import os
import subprocess
import sys

import keras
import numpy as np
import pytest

from strokeseg_tf.config import SMALL
from strokeseg_tf.loading import load_predictor
from strokeseg_tf.models.variants import VARIANTS, build_model
from strokeseg_tf.prediction import preprocessing as on_arrays
from strokeseg_tf.prediction.engines import Computing
from tfrecord_tools.errors import InputError

SETTINGS = {"filters": [2, 3, 4], "bottleneck": 4, "image_size": 32}


def write_network(path, variant="dual_v1", precision="float32"):
    """A network as it is after training: its normalisation has moved."""
    from strokeseg_tf.engine.precision import precision as trained_in

    keras.utils.set_random_seed(1)
    with trained_in(precision):
        network = build_model(SMALL.replace(model=SETTINGS | {"variant": variant}).model)
    rng = np.random.default_rng(0)
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([rng.uniform(0.7, 1.3, w.shape) for w in layer.get_weights()])
    network.save(path)
    return path


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return write_network(tmp_path_factory.mktemp("networks") / "network.keras")


@pytest.fixture(scope="module")
def study():
    rng = np.random.default_rng(0)
    return {m: rng.uniform(-1, 3, (7, 24, 20)).astype(np.float32) for m in ("adc", "dwi")}


@functools.cache
def predictor_of(path, engine, precision="float32"):
    return load_predictor(path, computing=Computing(engine, precision))


@pytest.mark.parametrize(
    ("shape", "size"),
    [((5, 256, 256), 112), ((4, 192, 256), 224), ((3, 20, 24), 33), ((2, 7, 1), 16)],
)
def test_arrays_are_prepared_and_restored_as_graphs_do(shape, size):
    from strokeseg_tf import preprocessing as in_graphs

    rng = np.random.default_rng(0)
    volume = rng.uniform(-100, 3000, shape).astype(np.float32)
    expected = in_graphs.preprocess(volume, in_graphs.volume_range(volume), size)
    np.testing.assert_allclose(on_arrays.preprocess(volume, size), expected, atol=1e-6)
    values = rng.random((shape[0], size, size, 1), np.float32)
    expected = in_graphs.restore(values, *shape[1:])
    np.testing.assert_allclose(on_arrays.restore(values, *shape[1:]), expected, atol=1e-6)
    constant = np.full(shape, 3, np.float32)
    assert not on_arrays.preprocess(constant, size).any()


@pytest.mark.parametrize(
    ("variant", "precision"),
    [
        ("unimodal", "float32"),
        ("dual_v1", "bfloat16"),
        *(pytest.param(v, "float32", marks=pytest.mark.slow) for v in sorted(VARIANTS)[:3]),
    ],
)
def test_engines_give_the_same_probabilities(tmp_path, study, variant, precision):
    path = write_network(tmp_path / "network.keras", variant, precision)
    one = predictor_of(path, "tensorflow").predict(study)
    other = predictor_of(path, "openvino").predict(study)
    assert one.keys() == other.keys()
    for modality in one:
        np.testing.assert_allclose(other[modality], one[modality], atol=1e-5)


def test_half_precision_is_near(network, study):
    exact = predictor_of(network, "tensorflow").predict(study)
    for engine in ("tensorflow", "openvino"):
        rounded = predictor_of(network, engine, "bfloat16").predict(study)
        for modality in exact:
            difference = np.abs(rounded[modality] - exact[modality])
            assert difference.mean() < 0.02 and (engine == "openvino" or difference.any())


def test_a_slice_has_the_same_bits_whatever_its_neighbours_are(network, study):
    predictor = predictor_of(network, "openvino")
    inputs = predictor.preprocess(study)
    whole = predictor.logits(inputs)
    turned = predictor.logits({m: x[::-1] for m, x in inputs.items()})
    for modality in whole:
        np.testing.assert_array_equal(turned[modality][::-1], whole[modality])


WATCHED = """
import sys

def watch(event, details):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        print("network:", event, details, file=sys.stderr)

sys.addaudithook(watch)
"""


def watched(program, *arguments, **environment):
    """What a program, and the interpreters that it starts, write to standard error."""
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stderr


def test_prediction_by_openvino_needs_no_tensorflow_and_tells_nobody(network, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(WATCHED)
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    program = (
        "import sys, numpy as np; from strokeseg_tf import Predictor; "
        "Predictor(sys.argv[1], engine='openvino').predict(*np.random.rand(2, 3, 24, 20)); "
        "print(sorted({'tensorflow', 'keras'} & set(sys.modules)), file=sys.stderr)"
    )
    assert watched(program, network, PYTHONPATH=path).split("\n") == ["[]", ""]


def test_a_damaged_file_is_named_by_every_engine(tmp_path):
    path = tmp_path / "network.keras"
    path.write_bytes(b"no network")
    for engine in ("auto", "tensorflow", "openvino"):
        with pytest.raises(InputError, match="network.keras cannot be loaded"):
            load_predictor(path, computing=Computing(engine))


def test_a_network_that_is_none_of_ours_is_computed_by_tensorflow(tmp_path, study, capsys):
    inputs = {m: keras.Input((32, 32, 1), name=m) for m in ("adc", "dwi")}
    joint = keras.layers.Concatenate()(list(inputs.values()))
    outputs = {m: keras.layers.SeparableConv2D(1, 3, padding="same")(joint) for m in inputs}
    path = tmp_path / "network.keras"
    keras.Model(inputs, outputs).save(path)
    predictor = load_predictor(path)
    assert predictor.computed_by.startswith("TensorFlow") and "float32" in predictor.computed_by
    assert predictor.predict(study)["adc"].shape == study["adc"].shape
    assert "is a SeparableConv2D" in capsys.readouterr().err
    with pytest.raises(InputError, match="SeparableConv2D"):
        load_predictor(path, computing=Computing("openvino"))


def test_without_openvino_tensorflow_computes(network, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert load_predictor(network).computed_by.startswith("TensorFlow")
    with pytest.raises(InputError, match=r"strokeseg-tf\[openvino\]"):
        load_predictor(network, computing=Computing("openvino"))


@pytest.mark.parametrize("kind", ["export", "address"])
def test_what_is_exported_keeps_its_own_engine_and_precision(tmp_path, kind):
    (tmp_path / "saved_model.pb").touch()
    model = {"export": tmp_path, "address": "grpc://localhost:8500/strokeseg"}[kind]
    with pytest.raises(InputError, match="leave them out"):
        load_predictor(model, computing=Computing("tensorflow"))
