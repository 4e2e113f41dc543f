"""Normalise, resize, and back: the one way pixels take in training, prediction and serving.

Everything here is TensorFlow graph code, so that an exported model carries it inside. Stacks of
slices are float32 `(slices, height, width)`.
"""

import tensorflow as tf


def volume_range(volume):
    """Smallest and largest value of a volume, float32 `(2,)`."""
    return tf.stack([tf.reduce_min(volume), tf.reduce_max(volume)])


def normalise(slices, limits):
    """Min-max over the volume to [0, 1] (section 2.3: "the whole studies were normalized").

    The result does not depend on the unit of the image. A constant volume becomes 0.

    Args:
        slices: float32, any shape.
        limits: float32 `(2,)`: smallest and largest value of the whole volume.
    """
    return tf.math.divide_no_nan(slices - limits[0], limits[1] - limits[0])


def preprocess(slices, limits, size):
    """Normalise and resize to the network's input.

    Args:
        slices: float32 `(slices, height, width)` in any unit.
        limits: See `normalise`.
        size: Height and width of the result in pixels.

    Returns:
        float32 `(slices, size, size, 1)` in [0, 1].
    """
    # Bilinear resizing and normalising may change places; resized there are fewer pixels, mostly.
    resized = tf.image.resize(slices[..., None], (size, size), method="bilinear")
    return normalise(resized, limits)


def preprocess_mask(mask, size):
    """Resize boolean masks `(slices, height, width)` to `(slices, size, size, 1)`, nearest."""
    pixels = tf.cast(mask, tf.uint8)[..., None]
    return tf.cast(tf.image.resize(pixels, (size, size), method="nearest"), tf.bool)


def restore(probabilities, height, width):
    """Resize probabilities back to the study's own slices.

    Args:
        probabilities: float32 `(slices, size, size, 1)`.
        height: Height of the study's slices in pixels.
        width: Their width.

    Returns:
        float32 `(slices, height, width)` in [0, 1].
    """
    return tf.image.resize(probabilities, (height, width), method="bilinear")[..., 0]
