"""Networks on TensorFlow, by Keras."""

import functools
import math

import numpy as np
import tensorflow as tf

from strokeseg_tf.models.variants import modalities_of
from strokeseg_tf.prediction.network import batch_size_of


class KerasEngine:
    """Computes a network as TensorFlow does; see `strokeseg_tf.prediction.network.Engine`.

    Args:
        model: A network of `strokeseg_tf.models` that gives logits.
        frozen: Whether the weights become constants: faster, but blind to further training.
    """

    def __init__(self, model, *, frozen: bool = False):
        self.modalities = modalities_of(model)
        self.size = next(iter(model.input.values())).shape[1]
        self.batch_size = batch_size_of(math.prod(x.output.shape[1:]) for x in model.layers)
        # The heads are float32 in every precision.
        precision = {layer.compute_dtype for layer in model.layers} - {"float32"} or {"float32"}
        self.name = f"TensorFlow {tf.__version__}, {precision.pop()}"
        network = freeze(model) if frozen else functools.partial(model, training=False)
        slices = tf.TensorSpec((None, self.size, self.size, 1))
        forward = tf.function(
            lambda inputs: {m: tf.cast(y, tf.float32) for m, y in network(inputs).items()},
            input_signature=[dict.fromkeys(self.modalities, slices)],
        )
        # Of a concrete function the graph is kept, not the Python that made it.
        self._forward = forward.get_concrete_function() if frozen else forward

    def __call__(self, inputs):
        """Logits, float32 `(slices, size, size, 1)` by modality, of such inputs."""
        outputs = self._forward({m: tf.convert_to_tensor(x) for m, x in inputs.items()})
        return {m: values.numpy() for m, values in outputs.items()}


def freeze(model):
    """A network's function with its weights as constants, which oneDNN then packs only once.

    Args:
        model: Functional Keras model.

    Returns:
        From a dictionary of tensors to a dictionary of tensors; it keeps no variable of the model.
    """
    parts = (model.trainable_variables, model.non_trainable_variables)
    weights = [[np.asarray(variable) for variable in part] for part in parts]

    def forward(inputs):
        # Inside: made outside they would be inputs of the graph, not constants in it.
        constants = ([tf.constant(weight) for weight in part] for part in weights)
        return model.stateless_call(*constants, inputs, training=False)[0]

    return forward
