"""Validation on whole studies, as evaluation does it: per-study Dice at native resolution."""

import keras
import numpy as np

from strokeseg_tf.pipeline import usable_studies
from strokeseg_tf.prediction import Predictor
from strokeseg_tf.preprocessing import preprocess_mask
from tfrecord_tools.reader import read_studies


def dice(reference, prediction):
    """2 |A and B| / (|A| + |B|) of boolean arrays; 1 where both are empty."""
    total = int(reference.sum()) + int(prediction.sum())
    return 2 * int((reference & prediction).sum()) / total if total else 1.0


def validate(predictor, loss, folder, split, rater):
    """Loss and Dice over the studies of a split.

    Args:
        predictor: `strokeseg_tf.prediction.Predictor`.
        loss: Loss of one head, on logits at the network's size.
        folder: A finished shards folder.
        split: Name of the split.
        rater: Whose masks are the reference.

    Returns:
        `{"val_loss": ..., "val_adc_dice": ..., "val_dwi_dice": ...}`: the loss over all slices,
        summed over the heads, and for each head the mean over studies of the Dice at native
        resolution.
    """
    modalities = predictor.modalities
    usable = set(usable_studies(folder, split, modalities, rater)[0])
    losses, slices, dices = [], [], {m: [] for m in modalities}
    for study in read_studies(folder, split):
        if study.study not in usable:
            continue
        logits = predictor.logits(predictor.preprocess(study.images))
        masks = {m: study.masks[rater, m] for m in modalities}
        probabilities = predictor.restore(logits, *masks[modalities[0]].shape[1:])
        losses.append(
            sum(float(loss(preprocess_mask(masks[m], predictor.size), logits[m])) for m in masks)
        )
        slices.append(len(masks[modalities[0]]))
        for m in modalities:
            dices[m].append(dice(masks[m], probabilities[m] > predictor.threshold))
    scores = {f"val_{m}_dice": float(np.mean(values)) for m, values in dices.items()}
    return {"val_loss": float(np.average(losses, weights=slices))} | scores


class StudyValidation(keras.callbacks.Callback):
    """Adds the figures of `validate` to each epoch's logs, for the callbacks that come after."""

    def __init__(self, network, loss, folder, split, rater, threshold):
        super().__init__()
        self._predictor = Predictor(network, threshold=threshold)
        self._arguments = loss, folder, split, rater

    def on_epoch_end(self, epoch, logs=None):
        logs.update(validate(self._predictor, *self._arguments))
