"""Batch normalisation by TensorFlow's fused kernels, while a network is trained.

Keras spells batch normalisation out in a dozen elementwise operations, which on a CPU take a
quarter of a training step. Here a twin of the network shares its weights and normalises with one
kernel; the network itself, which is saved, keeps its stock layers.
"""

import keras


def fuse_norms(network):
    """A model on the same weights whose batch normalisations are fused.

    It gives what `network` gives, up to rounding, and updates the same moving statistics. On a
    backend other than TensorFlow nothing is fused.

    Args:
        network: Functional model of stock layers.
    """
    if keras.backend.backend() != "tensorflow":
        return keras.Model(network.input, network.output, name=network.name)
    return keras.models.clone_model(network, clone_function=_fused)


def _fused(layer):
    """The layer itself, or its fused twin."""
    fusable = isinstance(layer, keras.layers.BatchNormalization) and layer.axis in (-1, 3)
    return FusedNormalization(layer) if fusable else layer


class FusedNormalization(keras.layers.Layer):
    """Normalises as a built `keras.layers.BatchNormalization` does, with its weights.

    Args:
        layer: The batch normalisation, of `(batch, height, width, channels)`.
    """

    def __init__(self, layer):
        super().__init__(name=layer.name, dtype=layer.dtype_policy)
        self.layer = layer
        self.built = True

    def call(self, inputs, training=None, mask=None):
        """Normalise by the batch and move the statistics, or by the moving statistics."""
        import tensorflow as tf

        layer = self.layer
        moving = layer.moving_mean, layer.moving_variance
        by_batch = bool(training and layer.trainable)
        # Half precision goes in and out as it is; scale and statistics are float32.
        outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(
            inputs,
            tf.convert_to_tensor(layer.gamma),
            tf.convert_to_tensor(layer.beta),
            *((None, None) if by_batch else map(tf.convert_to_tensor, moving)),
            epsilon=layer.epsilon,
            is_training=by_batch,
        )
        if by_batch:
            count = tf.cast(tf.size(inputs) // inputs.shape[-1], tf.float32)
            # The kernel's variance is divided by n - 1, that of Keras by n.
            values = mean, variance * (count - 1) / count
            for variable, value in zip(moving, values, strict=True):
                variable.assign(layer.momentum * variable + (1 - layer.momentum) * value)
        return outputs

    def compute_output_shape(self, input_shape):
        """The input's."""
        return input_shape
