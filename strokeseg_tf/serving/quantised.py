"""A convolution whose kernel is stored as whole numbers of eight bits."""

import keras
import numpy as np
from keras import ops


class QuantisedConv2D(keras.layers.Conv2D):
    """A `Conv2D` with an int8 kernel and a float32 scale for each output channel.

    The kernel is four times smaller at rest; the convolution itself is computed in floating
    point on `kernel = whole * scale`. Not trainable, and part of exports only: it is never saved
    as a Keras model.
    """

    def build(self, input_shape):
        """Create the whole numbers, their scale and the bias."""
        inputs = input_shape[-1] // self.groups
        self._whole = self.add_weight(
            name="whole",
            shape=(*self.kernel_size, inputs, self.filters),
            dtype="int8",
            initializer="zeros",
            trainable=False,
        )
        self._scale = self.add_weight(
            name="scale", shape=(self.filters,), initializer="ones", trainable=False
        )
        self.bias = None
        if self.use_bias:
            self.bias = self.add_weight(name="bias", shape=(self.filters,), trainable=False)
        self.built = True

    @property
    def kernel(self):
        """The kernel that is computed with."""
        return ops.cast(self._whole, self.compute_dtype) * self._scale

    def set_weights(self, weights):
        """Round a kernel to the nearest whole numbers of scale max |kernel| / 127.

        Args:
            weights: float32 kernel `(height, width, inputs, channels)`, and the bias where there
                is one.
        """
        kernel, *bias = weights
        scale = np.abs(kernel).max(axis=(0, 1, 2)) / 127
        scale[scale == 0] = 1
        self._whole.assign(np.rint(kernel / scale).astype(np.int8))
        self._scale.assign(scale)
        for variable, value in zip([self.bias] if self.use_bias else [], bias, strict=True):
            variable.assign(value)
