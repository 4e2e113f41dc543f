"""The fused twin of a network: the same outputs, gradients, statistics and weights."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from strokeseg_tf.config import SMALL
from strokeseg_tf.engine.training_twin import FusedNormalization, build_twin
from strokeseg_tf.models.variants import build_model

TINY = {"filters": [4, 6, 8], "bottleneck": 8, "image_size": 32}


def build(variant="dual_v1"):
    keras.utils.set_random_seed(0)
    return build_model(SMALL.replace(model=TINY | {"variant": variant, "modality": "adc"}).model)


def images(network, seed=0):
    rng = np.random.default_rng(seed)
    return {m: rng.random((3, 32, 32, 1), dtype=np.float32) for m in network.input}


def learn(network, model):
    """Outputs and gradients of one training pass."""
    with tf.GradientTape() as tape:
        outputs = model(images(network), training=True)
        loss = sum(tf.reduce_mean(tf.square(y - 1)) for y in outputs.values())
    variables = network.trainable_variables
    return outputs, dict(
        zip([v.path for v in variables], tape.gradient(loss, variables), strict=True)
    )


@pytest.mark.parametrize("variant", ["unimodal", "dual_v3"])
def test_training_passes_are_equal(variant):
    plain, network = build(variant), build(variant)
    fused = build_twin(network)
    assert sum(isinstance(layer, FusedNormalization) for layer in fused.layers) == sum(
        isinstance(layer, keras.layers.BatchNormalization) for layer in plain.layers
    )
    (expected, gradients), (outputs, fused_gradients) = learn(plain, plain), learn(network, fused)
    for name, output in outputs.items():
        np.testing.assert_allclose(output, expected[name], atol=1e-4, rtol=2e-5)
    for path, gradient in gradients.items():
        largest = float(tf.reduce_max(tf.abs(gradient)))
        if path.endswith("_conv/bias"):  # The normalisation takes it away: rounding is left.
            assert largest < 2e-4 and path not in fused_gradients
        else:
            atol = 2e-3 * largest + 2e-4
            np.testing.assert_allclose(fused_gradients[path], gradient, atol=atol, err_msg=path)
    for one, other in zip(plain.weights, network.weights, strict=True):
        np.testing.assert_allclose(other, one, atol=1e-6, err_msg=one.path)


def test_it_shares_the_weights_and_infers_by_the_moving_statistics():
    network = build()
    fused = build_twin(network)
    for _ in range(3):
        fused(images(network), training=True)
    assert {id(v) for v in fused.trainable_variables} == {
        id(v) for v in network.trainable_variables
    }
    moved = [w for w in network.non_trainable_variables if "moving" in w.path]
    assert moved and all(np.ptp(w) > 0 for w in moved if "mean" in w.path)
    for name, output in fused(images(network, 1), training=False).items():
        expected = network(images(network, 1), training=False)[name]
        np.testing.assert_allclose(output, expected, atol=5e-5, rtol=1e-5)


def test_the_network_keeps_its_stock_layers_and_is_saved_without_custom_objects(tmp_path):
    network = build()
    fused = build_twin(network)
    fused(images(network), training=True)
    network.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    assert all(type(layer).__module__.startswith("keras.") for layer in network.layers)
    for name, output in loaded(images(network)).items():
        np.testing.assert_array_equal(output, network(images(network))[name])


def test_frozen_layers_stay_frozen():
    network = build()
    network.trainable = False
    before = [np.array(w) for w in network.weights]
    build_twin(network)(images(network), training=True)
    for weight, value in zip(network.weights, before, strict=True):
        if "seed" not in weight.path:
            np.testing.assert_array_equal(weight, value)


def test_half_precision_goes_through():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        network = build()
        outputs = build_twin(network)(images(network), training=True)
    finally:
        keras.config.set_dtype_policy("float32")
    assert all(np.isfinite(output).all() for output in outputs.values())
