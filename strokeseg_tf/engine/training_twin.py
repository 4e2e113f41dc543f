"""The network as it is trained: one kernel for each normalisation and each upsampling.

Keras spells batch normalisation out in a dozen elementwise operations, which on a CPU take a
quarter of a training step, and upsampling in sixty, which take as long to trace as all else of a
decoder. Here a twin of the network shares its weights and has one kernel for each; the network
itself, which is saved, keeps its stock layers.
"""

import keras

#: oneDNN normalises bfloat16 fast where the channels are a multiple of this; elsewhere it takes
#: twenty times as long as in float32 (TensorFlow 2.17).
BFLOAT16_CHANNELS = 16


def build_twin(network):
    """A model on the same weights that is faster to trace and to train.

    It gives what `network` gives, up to rounding, and updates the same moving statistics. The
    bias of a convolution that a batch normalisation follows is subtracted again with the mean:
    its gradient is zero but for rounding, which AdamW would blow up to whole steps. It is made
    untrainable, in `network` too. On a backend other than TensorFlow nothing is changed.

    Args:
        network: Functional model of stock layers.
    """
    if keras.backend.backend() != "tensorflow":
        return keras.Model(network.input, network.output, name=network.name)
    normalised = {
        id(layer.input) for layer in network.layers if isinstance(layer, _norm) and layer.trainable
    }

    def twin(layer):
        if isinstance(layer, _norm) and layer.axis in (-1, 3):
            return FusedNormalization(layer)
        if isinstance(layer, keras.layers.Conv2D) and id(layer.output) in normalised:
            layer.bias.trainable = False
            return FixedBiasConvolution(layer)
        if isinstance(layer, keras.layers.UpSampling2D) and _doubles(layer):
            return Doubling(layer)
        return layer

    return keras.models.clone_model(network, clone_function=twin)


def _doubles(layer) -> bool:
    nearest = layer.interpolation == "nearest" and layer.data_format == "channels_last"
    return nearest and tuple(layer.size) == (2, 2)


_norm = keras.layers.BatchNormalization


class _Twin(keras.layers.Layer):
    """A layer that works with the weights of another, built one."""

    def __init__(self, layer):
        super().__init__(name=layer.name, dtype=layer.dtype_policy)
        self.layer = layer
        self.built = True

    def compute_output_shape(self, input_shape):
        """The other's."""
        return self.layer.compute_output_shape(input_shape)


class FixedBiasConvolution(_Twin):
    """Convolves as a built `keras.layers.Conv2D` does; its bias is not learnt."""

    def call(self, inputs):
        """`(batch, height, width, channels)` in and out."""
        outputs = self.layer.convolution_op(inputs, self.layer.kernel)
        bias = keras.ops.cast(keras.ops.stop_gradient(self.layer.bias), outputs.dtype)
        return self.layer.activation(outputs + bias)


class Doubling(_Twin):
    """Gives each pixel twice along both axes, as `keras.layers.UpSampling2D` does."""

    def call(self, inputs):
        """`(batch, height, width, channels)` in, twice the height and width out."""
        import tensorflow as tf

        height, width = inputs.shape[1:3]

        @tf.custom_gradient
        def double(maps):
            def gradient(upstream):
                # The sum over four pixels; pooling has a faster kernel than resizing back.
                return 4 * tf.nn.avg_pool2d(upstream, 2, 2, "VALID")

            size = 2 * height, 2 * width
            return tf.raw_ops.ResizeNearestNeighbor(images=maps, size=size), gradient

        return double(inputs)


class FusedNormalization(_Twin):
    """Normalises as a built `keras.layers.BatchNormalization` does, with its weights.

    Trained on several devices, it normalises by the batch of them all.
    """

    def call(self, inputs, training=None, mask=None):
        """Normalise by the batch and move the statistics, or by the moving statistics.

        Half precision goes in and out as it is; scale and statistics are float32.
        """
        import tensorflow as tf

        layer = self.layer
        moving = layer.moving_mean, layer.moving_variance
        if not (training and layer.trainable):
            return self._fused(inputs, *moving, training=False)[0]
        if tf.distribute.get_strategy().num_replicas_in_sync > 1:
            outputs, *statistics = self._over_replicas(inputs)
        else:
            outputs, mean, variance = self._fused(inputs, training=True)
            # The kernel's variance is divided by n - 1, that of Keras by n.
            statistics = mean, variance * (1 - 1 / _pixels(inputs))
        for variable, value in zip(moving, statistics, strict=True):
            old = tf.convert_to_tensor(variable)
            variable.assign(old + (1 - layer.momentum) * (value - old))
        return outputs

    def _fused(self, inputs, mean=None, variance=None, *, training):
        import tensorflow as tf

        weights = self.layer.gamma, self.layer.beta, mean, variance
        cast = inputs.dtype == tf.bfloat16 and inputs.shape[-1] % BFLOAT16_CHANNELS
        outputs, *statistics = tf.compat.v1.nn.fused_batch_norm(
            tf.cast(inputs, tf.float32) if cast else inputs,
            *(w if w is None else tf.convert_to_tensor(w) for w in weights),
            epsilon=self.layer.epsilon,
            is_training=training,
        )
        return tf.cast(outputs, inputs.dtype), *statistics

    def _over_replicas(self, inputs):
        """Outputs, mean and variance of the batch that all replicas share in equal parts."""
        import tensorflow as tf

        values = tf.cast(inputs, tf.float32)
        moments = tf.stack([tf.reduce_mean(v, (0, 1, 2)) for v in (values, tf.square(values))])
        context = tf.distribute.get_replica_context()
        total = context.all_reduce(tf.distribute.ReduceOp.SUM, moments)
        mean, square = tf.unstack(total / context.num_replicas_in_sync)
        variance = tf.maximum(square - tf.square(mean), 0.0)  # Rounding may go below.
        weights = map(tf.convert_to_tensor, (self.layer.beta, self.layer.gamma))
        outputs = tf.nn.batch_normalization(values, mean, variance, *weights, self.layer.epsilon)
        return tf.cast(outputs, inputs.dtype), mean, variance


def _pixels(maps):
    """How many there are of a channel; a number, but where the batch's size is not known."""
    import tensorflow as tf

    count = maps.shape[:-1].num_elements()
    return tf.cast(tf.size(maps) // maps.shape[-1], tf.float32) if count is None else count
