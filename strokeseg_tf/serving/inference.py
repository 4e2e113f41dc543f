"""A trained network -> the network that is served: what only training needs is left out.

At inference, batch normalisation multiplies each channel by a constant and adds another. Where it
follows a convolution both go into that convolution's kernel and bias,

    K' = K s,  b' = (b - mean) s + beta,  s = gamma / sqrt(variance + epsilon),

and the normalisation, like dropout, is gone.
"""

import keras
import numpy as np

from strokeseg_tf.serving.precision import PRECISIONS
from strokeseg_tf.serving.quantised import QuantisedConv2D


def inference_network(network, precision="float32"):
    """The network to serve.

    Args:
        network: Functional model of stock layers, as `strokeseg_tf.models` builds it.
        precision: "float32", whatever the network was trained in; "bfloat16" for weights and
            activations; or "int8": kernels are stored as whole numbers, a scale for each output
            channel, and computed with in float32.

    Returns:
        A functional model with the same inputs and outputs. In float32 it gives what `network`
        gives in float32, up to rounding.
    """
    folded = {_convolution_before(layer): layer for layer in network.layers if _is_norm(layer)}
    folded.pop(None, None)
    gone = {norm.name for norm in folded.values()}
    gone |= {layer.name for layer in network.layers if isinstance(layer, keras.layers.Dropout)}
    heads = {tensor._keras_history.operation.name for tensor in network.outputs}

    def clone(layer):
        if layer.name in gone:
            return layer
        config = layer.get_config()
        config["dtype"] = "float32" if layer.name in heads else PRECISIONS[precision].policy
        if layer.name in {conv.name for conv in folded}:
            config["use_bias"] = True
        kind = type(layer)
        if precision == "int8" and kind is keras.layers.Conv2D:
            kind = QuantisedConv2D
        return kind.from_config(config)

    def call(layer, inputs, *arguments, **options):
        return inputs if layer.name in gone else layer(inputs, *arguments, **options)

    served = keras.models.clone_model(network, clone_function=clone, call_function=call)
    for layer in network.layers:
        weights = [np.asarray(weight, np.float32) for weight in layer.get_weights()]
        if layer in folded:
            weights = fold(weights, folded[layer])
        if weights and layer.name not in gone:
            served.get_layer(layer.name).set_weights(weights)
    return served


def fold(weights, norm):
    """Kernel and bias that give at once what convolution and normalisation give in turn.

    Args:
        weights: float32 kernel `(height, width, inputs, channels)`, and the bias `(channels,)`
            where there is one.
        norm: Built `keras.layers.BatchNormalization` over the channels.
    """
    kernel, bias = (np.asarray(w, np.float64) for w in (*weights, np.zeros(1))[:2])
    scale = 1 / np.sqrt(_float64(norm.moving_variance) + norm.epsilon)
    if norm.gamma is not None:
        scale = scale * _float64(norm.gamma)
    bias = (bias - _float64(norm.moving_mean)) * scale
    if norm.beta is not None:
        bias = bias + _float64(norm.beta)
    return [(kernel * scale).astype(np.float32), bias.astype(np.float32)]


def _float64(variable):
    return keras.ops.convert_to_numpy(variable).astype(np.float64)


def _is_norm(layer):
    return isinstance(layer, keras.layers.BatchNormalization) and layer.axis in (-1, 3)


def _convolution_before(norm):
    """The linear convolution that nothing but this normalisation follows, or None."""
    layer = norm.input._keras_history.operation
    linear = isinstance(layer, keras.layers.Conv2D) and layer.activation is keras.activations.linear
    return layer if linear and len(layer._outbound_nodes) == 1 else None
