"""What is left of a network when it is served: fewer layers, the same answers."""

import keras
import numpy as np
import pytest
from keras import layers

from strokeseg_tf.config import SMALL
from strokeseg_tf.models.variants import VARIANTS, build_model
from strokeseg_tf.serving.inference import fold, inference_network

TINY = {"filters": [3, 4], "bottleneck": 5, "image_size": 16, "dropout": 0.5, "prior": 0.5}


def like_trained(network, seed=0):
    """Statistics and weights of a normalisation are 0 and 1 at first: draw others."""
    rng = np.random.default_rng(seed)
    for layer in network.layers:
        if isinstance(layer, layers.BatchNormalization):
            gamma, beta, mean, variance = layer.get_weights()
            layer.set_weights(
                [
                    rng.uniform(0.5, 2, gamma.shape),
                    rng.normal(0, 0.5, beta.shape),
                    rng.normal(0, 0.5, mean.shape),
                    rng.uniform(0.2, 2, variance.shape),
                ]
            )
    return network


def images(network, seed=1):
    rng = np.random.default_rng(seed)
    return {m: rng.random((3, *x.shape[1:]), np.float32) for m, x in network.input.items()}


def answers(network, inputs):
    return {m: np.asarray(y) for m, y in network(inputs, training=False).items()}


@pytest.fixture(scope="module", params=list(VARIANTS))
def network(request):
    keras.utils.set_random_seed(0)
    modality = {"modality": "adc"} if request.param == "unimodal" else {}
    config = SMALL.replace(model=TINY | {"variant": request.param} | modality)
    return like_trained(build_model(config.model))


@pytest.fixture(scope="module")
def served(network):
    return inference_network(network)


def probabilities(network, inputs):
    return {m: 1 / (1 + np.exp(-logits)) for m, logits in answers(network, inputs).items()}


def test_it_answers_as_the_trained_network_does(network, served):
    inputs = images(network)
    for m, probability in probabilities(network, inputs).items():
        assert np.ptp(probability) > 1e-3
        np.testing.assert_allclose(probabilities(served, inputs)[m], probability, atol=1e-5)


def test_nothing_that_only_training_needs_is_left(network, served):
    kinds = {type(layer) for layer in served.layers}
    assert layers.BatchNormalization not in kinds
    assert layers.Dropout not in kinds
    norms = [x for x in network.layers if isinstance(x, layers.BatchNormalization)]
    expected = network.count_params() - sum(norm.count_params() for norm in norms)
    assert served.count_params() == expected


def test_the_trained_network_stays_as_it_is(network):
    before = [weight.copy() for weight in network.get_weights()]
    inference_network(network, "int8")
    for old, new in zip(before, network.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert any(isinstance(layer, layers.Dropout) for layer in network.layers)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("center", "scale"), [(True, True), (False, True), (True, False)])
def test_folding_is_the_normalisation_of_the_convolution(bias, center, scale):
    source = keras.Input((8, 8, 2), name="adc")
    convolution = layers.Conv2D(5, 3, use_bias=bias, bias_initializer="uniform", name="conv")
    norm = layers.BatchNormalization(center=center, scale=scale, name="norm")
    model = keras.Model({"adc": source}, {"adc": norm(convolution(source))})
    rng = np.random.default_rng(2)
    norm.set_weights([rng.uniform(0.3, 2, weight.shape) for weight in norm.get_weights()])
    kernel, offset = fold(convolution.get_weights(), norm)
    x = rng.normal(size=(2, 8, 8, 2)).astype(np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2))
    expected = np.einsum("nhwcij,ijco->nhwo", windows.astype(np.float64), kernel) + offset
    np.testing.assert_allclose(model({"adc": x})["adc"], expected, rtol=1e-4, atol=1e-5)
    served = inference_network(model)
    np.testing.assert_allclose(served({"adc": x})["adc"], expected, rtol=1e-4, atol=1e-5)


def not_foldable(kind):
    """A normalisation that cannot go into the convolution before it."""
    source = keras.Input((8, 8, 1), name="adc")
    if kind == "after an activation":
        x = layers.Conv2D(2, 3, activation="relu")(source)
        result = layers.BatchNormalization()(x)
    elif kind == "of what is used elsewhere too":
        x = layers.Conv2D(2, 3)(source)
        result = layers.Add()([layers.BatchNormalization()(x), x])
    else:
        result = layers.BatchNormalization()(layers.AveragePooling2D(2)(source))
    return like_trained(keras.Model({"adc": source}, {"adc": result}))


@pytest.mark.parametrize(
    "kind", ["after an activation", "of what is used elsewhere too", "of no convolution"]
)
def test_a_normalisation_that_cannot_be_folded_stays(kind):
    model = not_foldable(kind)
    served = inference_network(model)
    assert any(isinstance(layer, layers.BatchNormalization) for layer in served.layers)
    inputs = images(model)
    np.testing.assert_allclose(
        answers(served, inputs)["adc"], answers(model, inputs)["adc"], rtol=1e-5, atol=1e-6
    )


def test_int8_kernels_are_within_half_a_step_of_the_folded_ones(network, served):
    whole = inference_network(network, "int8")
    convolutions = [x for x in served.layers if isinstance(x, layers.Conv2D)]
    assert convolutions
    for layer in convolutions:
        kernel = np.asarray(layer.kernel)
        step = np.abs(kernel).max(axis=(0, 1, 2)) / 127
        difference = np.abs(np.asarray(whole.get_layer(layer.name).kernel) - kernel)
        assert (difference <= step * 0.5001 + 1e-9).all()
    stored = [v for v in whole.variables if v.dtype == "int8"]
    assert len(stored) == len(convolutions)


def test_a_channel_of_zeros_stays_zero_in_int8():
    source = keras.Input((4, 4, 1), name="adc")
    model = keras.Model({"adc": source}, {"adc": layers.Conv2D(2, 1, name="c")(source)})
    kernel = np.array([0.0, 3.0], np.float32).reshape(1, 1, 1, 2)
    model.get_layer("c").set_weights([kernel, np.zeros(2, np.float32)])
    served = inference_network(model, "int8")
    np.testing.assert_allclose(served.get_layer("c").kernel, kernel, rtol=1e-6)


def test_bfloat16_holds_all_but_the_head_in_half_the_bytes(network):
    half = inference_network(network, "bfloat16")
    dtypes = {v.path: v.dtype for v in half.variables}
    heads = {path for path, dtype in dtypes.items() if dtype == "float32"}
    assert set(dtypes.values()) == {"bfloat16", "float32"}
    assert len(heads) == 2 * len(network.outputs)
    for logits in half(images(network), training=False).values():
        assert logits.dtype == "float32"


def test_a_network_of_mixed_precision_is_served_in_float32():
    config = SMALL.replace(model=TINY | {"variant": "dual_v1"})
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        trained = build_model(config.model)
    finally:
        keras.config.set_dtype_policy("float32")
    exact = build_model(config.model)
    exact.set_weights(trained.get_weights())
    inputs = images(exact)
    for m, logits in answers(inference_network(trained), inputs).items():
        np.testing.assert_allclose(logits, answers(exact, inputs)[m], rtol=1e-5, atol=1e-5)
