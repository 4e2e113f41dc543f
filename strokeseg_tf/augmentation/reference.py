"""The augmentation with albumentations: what `fast` is measured against.

Transforms are applied one after the other, and each geometric one samples the slice anew; masks are
sampled nearest.
"""

import os
import random
import threading

import numpy as np

# albumentations asks the network for updates when it is imported.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")


def _flips(a, s):
    # Slices are [x, y] in file order: x, left-right, is what albumentations takes for vertical.
    left_right, front_back = a.VerticalFlip(p=s.probability), a.HorizontalFlip(p=s.probability)
    return {"none": [], "left_right": [left_right], "both": [left_right, front_back]}[s.flips]


def _transpose(a, s):
    return [a.Transpose(p=s.probability)] if s.transpose else []


def _rotation(a, s):
    limit = (-s.rotation_degrees, s.rotation_degrees)
    return [a.Rotate(limit=limit, p=s.probability)] if s.rotation_degrees else []


def _elastic(a, s):
    if not s.elastic:
        return []
    alpha, sigma = s.elastic
    return [a.ElasticTransform(alpha=alpha, sigma=sigma, p=s.probability)]


def _grid_distortion(a, s):
    limit = (-s.grid_distortion, s.grid_distortion)
    return [a.GridDistortion(distort_limit=limit, p=s.probability)] if s.grid_distortion else []


def _optical_distortion(a, s):
    limit = (-s.optical_distortion, s.optical_distortion)
    if not s.optical_distortion:
        return []
    return [a.OpticalDistortion(distort_limit=limit, p=s.probability)]


def _brightness_contrast(a, s):
    if not (s.brightness or s.contrast):
        return []
    return [
        a.RandomBrightnessContrast(
            brightness_limit=(-s.brightness, s.brightness),
            contrast_limit=(-s.contrast, s.contrast),
            p=s.probability,
        )
    ]


#: Each transform of the list: `(albumentations, AugmentationSettings) -> transforms`, in order.
AUGMENTATIONS = {
    "flips": _flips,
    "transpose": _transpose,
    "rotation": _rotation,
    "elastic": _elastic,
    "grid_distortion": _grid_distortion,
    "optical_distortion": _optical_distortion,
    "brightness_contrast": _brightness_contrast,
}


class ReferenceAugmenter:
    """Augments slice pairs; as `build_augmenter` says.

    Args:
        settings: `strokeseg_tf.config.AugmentationSettings`.
        seed: The run's seed.
    """

    def __init__(self, settings, seed):
        self._settings = settings
        self._seed = seed
        # A composition holds its random state, so each thread has its own.
        self._local = threading.local()

    def _compose(self):
        if not hasattr(self._local, "compose"):
            import albumentations

            self._local.compose = albumentations.Compose(
                [
                    transform
                    for build in AUGMENTATIONS.values()
                    for transform in build(albumentations, self._settings)
                ]
            )
        return self._local.compose

    def __call__(self, images, masks, epoch, index):
        """Augment one slice pair.

        All its images share brightness and contrast, as in the authors' code.

        Args:
            images: float32 `(height, width, modalities)` in [0, 1].
            masks: bool `(height, width, modalities)`.
            epoch: Number of the pass over the data.
            index: Number of the pair in the data.

        Returns:
            Both, of the same shapes and dtypes; images clipped to [0, 1].
        """
        seed = np.random.SeedSequence([self._seed, int(epoch), int(index)])
        compose = self._compose()
        # Not set_random_seed: it gives each transform generators of its own, all with the one
        # seed, so that all transforms are applied or none.
        compose.set_random_state(
            np.random.default_rng(seed), random.Random(seed.generate_state(1)[0].item())
        )
        result = compose(image=images, mask=masks.astype(np.uint8))
        images = np.clip(result["image"], 0, 1).astype(np.float32, copy=False)
        return images, result["mask"].astype(bool)
