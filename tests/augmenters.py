"""Augmenters of some transforms alone, for the tests."""

from strokeseg_tf.augmentation.engines import build_augmenter
from strokeseg_tf.config import PAPER

#: Each transform, in the order in which they apply, and what switches it off.
OFF = {
    "flips": {"flips": "none"},
    "transpose": {"transpose": False},
    "rotation": {"rotation_degrees": 0.0},
    "elastic": {"elastic": None},
    "grid_distortion": {"grid_distortion": 0.0},
    "optical_distortion": {"optical_distortion": 0.0},
    "brightness_contrast": {"brightness": 0.0, "contrast": 0.0},
}


def augmenter(engine, only=tuple(OFF), *, seed=0, probability=1.0, **changes):
    """An engine's augmenter with the paper's settings, but for all transforms that `only` lacks."""
    settings = {"engine": engine, "probability": probability}
    for name in OFF.keys() - set(only):
        settings |= OFF[name]
    return build_augmenter(PAPER.replace(augmentation=settings | changes).augmentation, seed)
