"""The augmentation with one sampling of images and masks, by OpenCV.

The transforms are drawn as by `reference`, each with its probability and in its order. But their
displacements are composed and the slice is sampled once, where the reference samples it anew for
each: images stay sharper, masks are rounded once, and what one transform pushes over the border
another can bring back.
"""

import functools

import cv2
import numpy as np

from strokeseg_tf.augmentation.displacement import Warp, flip_columns, flip_rows, transpose

#: The turns of each setting of `flips`. Slices are [x, y] in file order: rows run left to right.
FLIPS = {"none": (), "left_right": (flip_rows,), "both": (flip_rows, flip_columns)}

#: What a turn is where nothing else moves the slice.
WHOLE_TURNS = {
    flip_rows: functools.partial(cv2.flip, flipCode=0),
    flip_columns: functools.partial(cv2.flip, flipCode=1),
    transpose: cv2.transpose,
}


class FastAugmenter:
    """Augments slice pairs; as `build_augmenter` says.

    Args:
        settings: `strokeseg_tf.config.AugmentationSettings`.
        seed: The run's seed.
    """

    def __init__(self, settings, seed):
        self._settings = settings
        self._turns = [*FLIPS[settings.flips], *([transpose] if settings.transpose else [])]
        self._key = np.random.SeedSequence(seed).generate_state(2, np.uint64)
        self._warp = functools.cache(lambda size: Warp(settings, seed, size))

    def __call__(self, images, masks, epoch, index):
        """Augment one slice pair.

        All its images share brightness and contrast, as in the authors' code.

        Args:
            images: float32 `(size, size, modalities)` in [0, 1].
            masks: bool, same shape.
            epoch: Number of the pass over the data.
            index: Number of the pair in the data.

        Returns:
            Both, of the same shapes and dtypes; images in [0, 1]. They may be the arguments
            themselves.
        """
        # A counter-based generator is cheap to start, and every pair has its own stretch of it.
        counter = [0, 0, int(epoch), int(index)]
        rng = np.random.Generator(np.random.Philox(key=self._key, counter=counter))
        shape = images.shape
        # All masks of a pixel as one number, which OpenCV moves faster.
        masks = masks.view(f"i{shape[-1]}")
        turns = [turn for turn in self._turns if self._drawn(rng)]
        positions = self._warp(shape[0]).draw(rng, turns)
        if positions is None:
            for turn in turns:
                images, masks = WHOLE_TURNS[turn](images), WHOLE_TURNS[turn](masks)
        else:
            images = cv2.remap(images, positions, None, cv2.INTER_LINEAR)
            if masks.any():  # Most slices have no lesion.
                masks = cv2.remap(masks, positions, None, cv2.INTER_NEAREST)
        images = self._brighten(rng, images)
        # OpenCV drops a last axis of one.
        return images.reshape(shape), masks.reshape(*shape[:2], 1).view(bool)

    def _drawn(self, rng):
        return rng.random() < self._settings.probability

    def _brighten(self, rng, images):
        brightness, contrast = self._settings.brightness, self._settings.contrast
        if not (brightness or contrast) or not self._drawn(rng):
            return images
        images = images * np.float32(1 + rng.uniform(-contrast, contrast))
        images += np.float32(rng.uniform(-brightness, brightness))
        return np.clip(images, 0, 1, out=images)
