"""The features of the studies that a run learns from, gathered while its slices are read."""

from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from strokeseg_tf.prediction.familiarity import grid_features, intensity_features, summarise
from strokeseg_tf.preprocessing import normalise
from tfrecord_tools.grid import Grid


def slice_facts(pair, modalities):
    """What `describe_training_data` needs of a slice pair.

    Args:
        pair: Of `tfrecord_tools.reader.shard_slice_pairs`.
        modalities: What the network takes.

    Returns:
        Tensors: mean and mean square of each normalised image, height and width, the affine and
        the shape of the file.
    """
    moments = []
    for modality in modalities:
        scaled = normalise(pair[modality], pair[f"{modality}_range"])
        moments += [tf.reduce_mean(scaled), tf.reduce_mean(tf.square(scaled))]
    size = tf.stack([pair["height"], pair["width"]])
    return tf.stack(moments), size, pair["affine"], pair["file_shape"]


def describe_training_data(facts: Mapping[str, Sequence], modalities) -> dict:
    """What the training studies look like, for `training_data.json`.

    Args:
        facts: By study, `slice_facts` of each of its slice pairs.
        modalities: As in `slice_facts`.

    Returns:
        See `strokeseg_tf.prediction.familiarity.summarise`. No study is named in it.
    """
    return summarise(_features(slices, modalities) for slices in facts.values())


def _features(slices, modalities):
    moments, (size, *_), (affine, *_), (shape, *_) = zip(*slices, strict=True)
    features = grid_features((len(slices), *map(int, size)), Grid(tuple(map(int, shape)), affine))
    means = np.mean(moments, axis=0, dtype=np.float64).reshape(-1, 2)
    for modality, (mean, mean_square) in zip(modalities, means, strict=True):
        features |= intensity_features(modality, float(mean), float(mean_square))
    return features
