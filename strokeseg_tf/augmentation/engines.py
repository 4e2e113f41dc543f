"""The two implementations of the augmentation by the name that the configuration gives them."""

from strokeseg_tf.augmentation.fast import FastAugmenter
from strokeseg_tf.augmentation.reference import ReferenceAugmenter

ENGINES = {"fast": FastAugmenter, "albumentations": ReferenceAugmenter}


def build_augmenter(settings, seed):
    """What augments slice pairs: `augment(images, masks, epoch, index)`.

    The same (seed, epoch, index) gives the same bytes whatever the thread, order or batch, so a
    resumed run sees what an undisturbed one would have seen.

    Args:
        settings: `strokeseg_tf.config.AugmentationSettings`.
        seed: The run's seed.
    """
    return ENGINES[settings.engine](settings, seed)
