"""`strokeseg_tf.preprocessing` on arrays: the same values without TensorFlow."""

import numpy as np


def preprocess(volume: np.ndarray, size: int) -> np.ndarray:
    """Normalise over the volume and resize to the network's input.

    Args:
        volume: float32 `(slices, height, width)` in any unit.
        size: Height and width of the result in pixels.

    Returns:
        float32 `(slices, size, size, 1)` in [0, 1]; 0 where the volume is constant.
    """
    low, high = volume.min(), volume.max()
    if not high > low:
        return np.zeros((len(volume), size, size, 1), np.float32)
    return ((_resized(volume, size, size) - low) / (high - low))[..., None]


def restore(probabilities: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize probabilities back to the study's own slices.

    Args:
        probabilities: float32 `(slices, size, size, 1)`.
        height: Height of the study's slices in pixels.
        width: Their width.

    Returns:
        float32 `(slices, height, width)` in [0, 1].
    """
    return _resized(probabilities[..., 0], height, width)


def _resized(slices: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear between the centres of pixels, with the weights of `tf.image.resize`.

    OpenCV's are more exact, by up to 4e-5 of the grey scale: not what a network was trained with.
    """
    above, below, down = _neighbours(slices.shape[1], height)
    left, right, across = _neighbours(slices.shape[2], width)
    down = down[:, None]
    resized = np.empty((len(slices), height, width), np.float32)
    for one, into in zip(slices, resized, strict=True):
        rows = one[above]
        rows += (one[below] - rows) * down
        np.take(rows, left, axis=1, out=into)
        into += (np.take(rows, right, axis=1) - into) * across
    return resized


def _neighbours(old: int, new: int):
    """The old pixels before and after each new one of a line, and the weight of the latter."""
    place = (np.arange(new, dtype=np.float32) + np.float32(0.5)) * np.float32(old / new)
    place -= np.float32(0.5)
    before = np.floor(place)
    weight = place - before
    ends = (before, before + 1)
    return (*(np.clip(end, 0, old - 1).astype(np.intp) for end in ends), weight)
