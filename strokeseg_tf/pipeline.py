"""Shards -> batches of `(inputs, targets)` for training.

Slices are read through `tf.data`, preprocessed once and kept as arrays (in memory, or in a
temporary file where they are many). Order and augmentation are functions of (seed, epoch), so
training can stop and go on anywhere.
"""

import dataclasses
import os
import tempfile

import numpy as np
import tensorflow as tf

from strokeseg_tf.augmentation.engines import build_augmenter
from strokeseg_tf.prediction.training_data import describe_training_data, slice_facts
from strokeseg_tf.preprocessing import preprocess, preprocess_mask
from tfrecord_tools.errors import InputError
from tfrecord_tools.integrity import check_shards
from tfrecord_tools.reader import shard_slice_pairs, shards_of, without_autotuning
from tfrecord_tools.shards import read_dataset_info

#: Preprocessed slices above this size live in a temporary file instead of memory.
MEMORY_LIMIT_BYTES = 4 << 30


@dataclasses.dataclass(frozen=True, eq=False)
class Slices:
    """Preprocessed slice pairs of a split.

    Attributes:
        images: float32 `(pairs, size, size, modalities)` in [0, 1].
        masks: bool, same shape.
        studies: Study id of each pair, where it is known.
        description: Of the studies, see `describe_training_data`, where it is known.
    """

    images: np.ndarray
    masks: np.ndarray
    studies: np.ndarray | None = None
    description: dict | None = None

    def __len__(self):
        return len(self.images)


def usable_studies(folder, split, modalities, rater):
    """The studies of a split that have the images and the rater's masks.

    Returns:
        `(usable, left_out)`: lists of study ids.

    Raises:
        InputError: There is none.
    """
    info = read_dataset_info(folder)
    shards_of(folder, info, split)
    names = {f"{rater}_{m}" for m in modalities}
    usable, left_out = [], []
    for study in info.studies_of(split):
        facts = info.studies[study]
        complete = set(modalities) <= set(facts["modalities"]) and names <= set(facts["masks"])
        (usable if complete else left_out).append(study)
    if not usable:
        raise InputError(
            f"no study of the split {split!r} of {folder} has {' and '.join(modalities)} with "
            f"masks of rater {rater!r}; choose another --modality or rater, or convert such studies"
        )
    return usable, left_out


def load_slices(folder, split, *, modalities, rater, size):
    """Read and preprocess the usable slice pairs of a split.

    Args:
        folder: A finished shards folder.
        split: Name of the split.
        modalities: Modalities in the order of the last axis.
        rater: Whose masks are wanted.
        size: Height and width in pixels.

    Raises:
        InputError: No usable study, or a damaged shard.
    """
    usable, _ = usable_studies(folder, split, modalities, rater)
    info = read_dataset_info(folder)
    count = sum(info.studies[study]["slices"] for study in usable)
    shape = (count, size, size, len(modalities))
    images, masks = _empty(shape, np.float32), _empty(shape, bool)
    ids, facts = [], {}

    @tf.function(autograph=False)  # Traced once for all shards.
    def preprocess_pair(pair):
        return _preprocess_pair(pair, modalities, rater, size)

    try:
        for pairs in shard_slice_pairs(folder, split):
            preprocessed = (
                pairs.filter(lambda pair: tf.reduce_any(pair["study"] == usable))
                .map(preprocess_pair, num_parallel_calls=tf.data.AUTOTUNE)
                .batch(32)
                .prefetch(1)
            )
            for image, mask, studies, *facts_of_pairs in preprocessed.as_numpy_iterator():
                part = slice(len(ids), len(ids) + len(studies))
                images[part], masks[part] = image, mask
                ids += [study.decode() for study in studies]
                for study, *values in zip(ids[part], *facts_of_pairs, strict=True):
                    facts.setdefault(study, []).append(values)
    except (tf.errors.OpError, UnicodeDecodeError):  # TensorFlow may quote a damaged record.
        check_shards(folder)  # Says which shard is damaged.
        raise
    description = describe_training_data(facts, modalities)
    return Slices(images, masks, np.array(ids, object), description)


def _empty(shape, dtype):
    if np.prod(shape) * np.dtype(dtype).itemsize < MEMORY_LIMIT_BYTES:
        return np.empty(shape, dtype)
    return np.memmap(tempfile.TemporaryFile(), dtype, "w+", shape=shape)


def _preprocess_pair(pair, modalities, rater, size):
    images, masks = [], []
    for modality in modalities:
        images.append(preprocess(pair[modality][None], pair[f"{modality}_range"], size)[0])
        drawn = tf.argmax(pair["mask_names"] == f"{rater}_{modality}")
        masks.append(preprocess_mask(pair["masks"][drawn][None], size)[0])
    facts = slice_facts(pair, modalities)
    return tf.concat(images, -1), tf.concat(masks, -1), pair["study"], *facts


class EpochOrder:
    """Which slice pairs make the batches of an epoch: a function of (seed, epoch).

    Args:
        slices: `Slices`.
        seed: The run's seed.
        batch_size: Slice pairs a batch; what does not fill one is left to another epoch.
        lesion_free_share: Share of the slices without lesion that each epoch draws anew.
        parts: Equal parts that every batch is cut into, one for each device of all workers.

    Attributes:
        batch_size: Smaller than asked for where there are fewer slices.
        steps: Batches of an epoch.

    Raises:
        InputError: There are fewer slice pairs than parts.
    """

    def __init__(self, slices, *, seed, batch_size, lesion_free_share=1.0, parts=1):
        has_lesion = slices.masks.any(axis=(1, 2, 3))
        self._lesion, self._lesion_free = np.flatnonzero(has_lesion), np.flatnonzero(~has_lesion)
        at_least = int(not len(self._lesion))
        self._drawn = max(round(lesion_free_share * len(self._lesion_free)), at_least)
        count = len(self._lesion) + self._drawn
        self.seed = seed
        if count < parts:
            raise InputError(f"{parts} devices cannot share {count} slice pairs; use fewer")
        self.batch_size = min(batch_size, count // parts * parts)
        self.steps = count // self.batch_size

    def __call__(self, epoch) -> np.ndarray:
        """Indices of slice pairs, int64 `(steps, batch_size)`."""
        rng = np.random.default_rng([self.seed, int(epoch)])
        chosen = np.concatenate([self._lesion, rng.permutation(self._lesion_free)[: self._drawn]])
        used = rng.permutation(chosen)[: self.steps * self.batch_size]
        return used.reshape(self.steps, self.batch_size)


def batch_spec(modalities, size, batch_size):
    """The `tf.TypeSpec`s of what `training_batches` gives, known before the data are read."""
    planes = {m: tf.TensorSpec((batch_size, size, size, 1), tf.float32) for m in modalities}
    return planes, dict(planes)


def training_batches(slices, order: EpochOrder, *, modalities, augmentation, epochs, share=(0, 1)):
    """Shuffled, augmented batches, epoch after epoch.

    Args:
        slices: `Slices`.
        order: Of these slices.
        modalities: Names of the last axis of `slices`.
        augmentation: `strokeseg_tf.config.AugmentationSettings`.
        epochs: `range` of the epochs to give.
        share: `(index, count)`: which of so many equal parts of every batch to give.

    Returns:
        A `tf.data.Dataset` of `({modality: images}, {modality: masks})`, `(batch, size, size, 1)`,
        float32.
    """
    index, count = share
    width = order.batch_size // count
    augment = build_augmenter(augmentation, order.seed)

    def batches_of(epoch):
        indices = tf.numpy_function(order, [epoch], tf.int64, stateful=False)
        indices = tf.ensure_shape(indices, (order.steps, order.batch_size))
        part = indices[:, index * width : (index + 1) * width]
        return tf.data.Dataset.from_tensor_slices(part).map(lambda batch: (epoch, batch))

    def load(epoch, batch):
        return _augmented_batch(slices, augment, epoch, batch)

    def load_tensors(epoch, batch):
        # A call a batch: entering Python from TensorFlow, and joining, cost as much as a pair.
        types = [tf.float32] * 2 * len(modalities)
        planes = tf.numpy_function(load, [epoch, batch], types, stateful=False)
        shape = (width, *slices.images.shape[1:3], 1)
        planes = [tf.ensure_shape(plane, shape) for plane in planes]
        images, masks = planes[: len(modalities)], planes[len(modalities) :]
        return dict(zip(modalities, images, strict=True)), dict(zip(modalities, masks, strict=True))

    return (
        without_autotuning(tf.data.Dataset.range(epochs.start, epochs.stop))
        .flat_map(batches_of)
        .map(load_tensors, num_parallel_calls=os.cpu_count(), deterministic=True)
        .prefetch(2)
    )


def _augmented_batch(slices, augment, epoch, batch):
    """Images, then masks, of each modality: float32 `(batch, size, size, 1)`."""
    shape = (len(batch), *slices.images.shape[1:3], 1)
    images = [np.empty(shape, np.float32) for _ in range(slices.images.shape[3])]
    masks = [np.zeros(shape, np.float32) for _ in images]
    for row, index in enumerate(batch):
        pair, drawn = augment(slices.images[index], slices.masks[index], epoch, index)
        for channel, image in enumerate(images):
            image[row, ..., 0] = pair[..., channel]
        if drawn.any():
            for channel, mask in enumerate(masks):
                mask[row, ..., 0] = drawn[..., channel]
    return *images, *masks
