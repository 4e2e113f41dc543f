"""The features of the studies that a run learns from, read from its shards."""

import numpy as np
import tensorflow as tf

from strokeseg_tf.pipeline import usable_studies
from strokeseg_tf.prediction.familiarity import grid_features, intensity_features, summarise
from strokeseg_tf.preprocessing import normalise
from tfrecord_tools.grid import Grid
from tfrecord_tools.reader import shard_slice_pairs

#: Of slices in a batch only names, shapes and sums are kept.
_BATCH = 64


def describe_training_data(shards, split, *, modalities, rater) -> dict:
    """What the training studies look like, for `training_data.json`.

    Args:
        shards: A finished shards folder.
        split: What is learnt from.
        modalities: What the network takes.
        rater: Whose masks are learnt.

    Returns:
        See `strokeseg_tf.prediction.familiarity.summarise`. No study is named in it.
    """
    usable, _ = usable_studies(shards, split, modalities, rater)
    slices = {}
    for pairs in shard_slice_pairs(shards, split):
        facts = (
            pairs.filter(lambda pair: tf.reduce_any(pair["study"] == usable))
            .map(lambda pair: _facts(pair, modalities), num_parallel_calls=tf.data.AUTOTUNE)
            .batch(_BATCH)
            .prefetch(1)
        )
        for batch in facts.as_numpy_iterator():
            for study, *values in zip(*batch, strict=True):
                slices.setdefault(study, []).append(values)
    return summarise(_features(parts, modalities) for parts in slices.values())


def _facts(pair, modalities):
    moments = []
    for modality in modalities:
        scaled = normalise(pair[modality], pair[f"{modality}_range"])
        moments += [tf.reduce_mean(scaled), tf.reduce_mean(tf.square(scaled))]
    size = tf.stack([pair["height"], pair["width"]])
    return pair["study"], tf.stack(moments), size, pair["affine"], pair["file_shape"]


def _features(slices, modalities):
    moments, (size, *_), (affine, *_), (shape, *_) = zip(*slices, strict=True)
    features = grid_features((len(slices), *map(int, size)), Grid(tuple(map(int, shape)), affine))
    means = np.mean(moments, axis=0, dtype=np.float64).reshape(-1, 2)
    for modality, (mean, mean_square) in zip(modalities, means, strict=True):
        features |= intensity_features(modality, float(mean), float(mean_square))
    return features
