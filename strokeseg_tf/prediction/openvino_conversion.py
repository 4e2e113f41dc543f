"""A `.keras` file -> OpenVINO's files: a program of its own, for Keras on another backend.

The graph works on maps `(slices, channels, height, width)`, as OpenVINO's kernels do; that of
Keras's own export is full of transpositions, and takes 1.2 to 2 times as long.
"""

import sys

import numpy as np

from strokeseg_tf.lean_keras import keep_optional_imports_back
from strokeseg_tf.silent_openvino import import_openvino
from tfrecord_tools.errors import InputError

#: After the names of outputs: a map may be input and output of a graph.
OUT = "_out"

#: Exit status where the file is at fault, and the last line says why.
REFUSED = 2


def convert(file: str, folder: str, precision: str) -> None:
    """Write a network as it is at inference: `0-f32.xml` and so on, weights in a `.bin` for each.

    In float32 it is one graph. For bfloat16 it is cut in three: the first level of the encoders,
    the bulk, and the heads. Rounded in the bulk alone (0.9 of the arithmetic), masks lose less than
    half of what they lose otherwise. OpenVINO's name of its precision stands in a part's name.

    The first graph takes float32 `(slices, 1, size, size)` by modality, the last gives the logits
    so; between them go feature maps by name of their layer. Outputs have `OUT` after their name.

    Args:
        file: A `.keras` file.
        folder: Where to write.
        precision: "float32" or "bfloat16".

    Raises:
        InputError: The file cannot be loaded, or has a layer that none of our networks has.
    """
    keep_optional_imports_back()
    openvino = import_openvino()
    from strokeseg_tf.runs import load_network

    network = load_network(file)
    parts = [("f32", network.layers)] if precision == "float32" else _cut(network)
    for number, (hint, part) in enumerate(parts):
        if part:
            openvino.serialize(_graph_of(part, network), f"{folder}/{number}-{hint}.xml")


def main() -> None:
    """`convert` what the last three arguments name."""
    try:
        convert(*sys.argv[-3:])
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(REFUSED)


def _cut(network) -> list[tuple[str, list]]:
    """Precision and layers: before the first pooling, the bulk, and the heads."""
    size = next(iter(network.input.values())).shape[1]
    heads = set(_sources(network.output))
    early = set()
    for layer in network.layers:
        if early.issuperset(_sources_of(layer)) and layer.output.shape[1] == size:
            early.add(layer.name)
    early -= heads
    return [
        ("f32", [layer for layer in network.layers if layer.name in early]),
        ("bf16", [layer for layer in network.layers if layer.name not in early | heads]),
        ("f32", [layer for layer in network.layers if layer.name in heads]),
    ]


def _graph_of(part, network):
    """Some layers of a network, in their order, as an `openvino.Model`."""
    import openvino

    apply, maps, parameters = _Layers(), {}, []

    def map_of(layer):
        """What a layer gives; a parameter where it is no layer of this part."""
        if layer.name not in maps:
            maps[layer.name] = _parameter(layer)
            parameters.append(maps[layer.name])
        return maps[layer.name]

    inside = {layer.name for layer in part}
    for layer in part:
        inputs = [map_of(network.get_layer(source)) for source in _sources_of(layer)]
        maps[layer.name] = apply(layer, inputs) if inputs else map_of(layer)
    outside = [layer for layer in network.layers if layer.name not in inside]
    wanted = {source: source for layer in outside for source in _sources_of(layer)}
    wanted |= {_sources(tensor)[0]: m for m, tensor in network.output.items()}
    results = []
    for source in inside & wanted.keys():
        results.append(openvino.opset15.result(maps[source]))
        results[-1].output(0).add_names({f"{wanted[source]}{OUT}"})
    return openvino.Model(results, parameters, "strokeseg")


def _sources_of(layer) -> list[str]:
    return [] if type(layer).__name__ == "InputLayer" else _sources(layer.input)


def _sources(tensors) -> list[str]:
    """Names of the layers that tensors come from."""
    from keras import tree

    return [tensor._keras_history.operation.name for tensor in tree.flatten(tensors)]


def _parameter(layer):
    import openvino

    height, width, channels = layer.output.shape[1:]
    shape = [-1, channels, height, width]
    parameter = openvino.opset15.parameter(shape, openvino.Type.f32, layer.name)
    parameter.output(0).set_names({layer.name})
    return parameter


class _Layers:
    """OpenVINO's operations for the layers that our networks have."""

    def __init__(self):
        import openvino

        self._ops = openvino.opset15

    def __call__(self, layer, inputs):
        """What the layer makes of its inputs, at inference."""
        kind = type(layer).__name__
        build = getattr(self, f"_{kind.lower()}", None)
        if build is None:
            raise InputError(f"layer {layer.name} is a {kind}, which none of our networks has")
        return build(layer, *inputs)

    def _conv2d(self, layer, x):
        kernel, *bias = layer.get_weights()
        same = layer.padding == "same"
        x = self._ops.convolution(
            x,
            kernel.transpose(3, 2, 0, 1).astype(np.float32),
            list(layer.strides),
            [0, 0],
            [0, 0],
            list(layer.dilation_rate),
            auto_pad="same_upper" if same else "valid",
        )
        if bias:
            x = self._ops.add(x, _by_channel(bias[0]))
        return self._activated(layer, x)

    def _activated(self, layer, x):
        name = layer.activation.__name__
        if name not in ("linear", "sigmoid"):
            raise InputError(f"layer {layer.name} ends in {name}, which none of our networks has")
        return self._ops.sigmoid(x) if name == "sigmoid" else x

    def _batchnormalization(self, layer, x):
        if not (layer.center and layer.scale):
            raise InputError(f"layer {layer.name} does not scale, as all of our networks do")
        gamma, beta, mean, variance = (w.astype(np.float32) for w in layer.get_weights())
        return self._ops.batch_norm_inference(x, gamma, beta, mean, variance, layer.epsilon)

    def _relu(self, layer, x):
        return self._ops.relu(x)

    def _dropout(self, layer, x):
        return x

    def _add(self, layer, *inputs):
        return self._ops.add(*inputs)

    def _multiply(self, layer, *inputs):
        return self._ops.multiply(*inputs)

    def _concatenate(self, layer, *inputs):
        return self._ops.concat(list(inputs), 1)

    def _averagepooling2d(self, layer, x):
        size, strides = list(layer.pool_size), list(layer.strides)
        return self._ops.avg_pool(x, strides, [0, 0], [0, 0], size, True, auto_pad="valid")

    def _maxpooling2d(self, layer, x):
        size, strides = list(layer.pool_size), list(layer.strides)
        pooled = self._ops.max_pool(
            x, strides, [1, 1], [0, 0], [0, 0], size, auto_pad="valid", index_element_type="i64"
        )
        return pooled.output(0)

    def _upsampling2d(self, layer, x):
        if layer.interpolation != "nearest":
            raise InputError(f"layer {layer.name} does not repeat pixels, as our networks do")
        scales = np.array(layer.size, np.float32)
        return self._ops.interpolate(
            x,
            scales,
            mode="nearest",
            shape_calculation_mode="scales",
            axes=[2, 3],
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        )


def _by_channel(values):
    return values.astype(np.float32).reshape(1, -1, 1, 1)
