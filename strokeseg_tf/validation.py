"""Validation on whole studies, as evaluation does it: per-study Dice at native resolution."""

import dataclasses
from collections.abc import Iterator, Mapping

import keras
import numpy as np

from strokeseg_tf.pipeline import usable_studies
from strokeseg_tf.prediction.network import preprocess_study
from strokeseg_tf.preprocessing import preprocess_mask
from tfrecord_tools.reader import read_studies


def dice(reference, prediction):
    """2 |A and B| / (|A| + |B|) of boolean arrays; 1 where both are empty."""
    total = int(reference.sum()) + int(prediction.sum())
    return 2 * int((reference & prediction).sum()) / total if total else 1.0


#: Prepared studies up to this size are kept in memory from epoch to epoch.
MEMORY_LIMIT_BYTES = 1 << 30


@dataclasses.dataclass(frozen=True, eq=False)
class PreparedStudy:
    """A study as `validate_prepared` wants it.

    Attributes:
        inputs: The network's inputs by modality.
        masks: bool `(slices, height, width)` by modality, at native resolution.
        targets: bool `(slices, size, size, 1)` by modality, at the network's size.
    """

    inputs: Mapping
    masks: Mapping[str, np.ndarray]
    targets: Mapping[str, np.ndarray]

    @property
    def size_bytes(self) -> int:
        """Memory it takes."""
        parts = (self.inputs, self.masks, self.targets)
        return sum(np.asarray(array).nbytes for part in parts for array in part.values())


class PreparedStudies:
    """The studies of a split that have the images and masks wanted, to be gone over repeatedly.

    They are read and preprocessed once and kept where they are small, else read again each time.

    Args:
        predictor: `strokeseg_tf.prediction.network.NetworkPredictor`, for its modalities and size.
        folder: A finished shards folder.
        split: Name of the split.
        rater: Whose masks are the reference.
        limit_bytes: Memory that may be taken.
    """

    def __init__(self, predictor, folder, split, rater, limit_bytes=MEMORY_LIMIT_BYTES):
        # Not the predictor: kept from trial to trial, this would keep the first one's network.
        self._modalities, self._size = predictor.modalities, predictor.size
        self._source = folder, split, rater
        self._limit_bytes = limit_bytes
        self._kept = None

    def __iter__(self) -> Iterator[PreparedStudy]:
        if self._kept is not None:
            yield from self._kept
            return
        kept, size = [], 0
        for study in self._prepare():
            yield study
            size += study.size_bytes
            if kept is not None:
                kept = [*kept, study] if size <= self._limit_bytes else None
        self._kept = kept

    def _prepare(self) -> Iterator[PreparedStudy]:
        folder, split, rater = self._source
        modalities, size = self._modalities, self._size
        usable = set(usable_studies(folder, split, modalities, rater)[0])
        for study in read_studies(folder, split):
            if study.study in usable:
                masks = {m: study.masks[rater, m] for m in modalities}
                yield PreparedStudy(
                    preprocess_study(study.images, modalities, size),
                    masks,
                    {m: preprocess_mask(mask, size) for m, mask in masks.items()},
                )


def validate(predictor, loss, folder, split, rater):
    """`validate_prepared` over the studies of a split; see `PreparedStudies`."""
    return validate_prepared(predictor, loss, PreparedStudies(predictor, folder, split, rater))


def validate_prepared(predictor, loss, studies):
    """Loss and Dice over studies.

    Args:
        predictor: `strokeseg_tf.prediction.network.NetworkPredictor`.
        loss: Loss of one head, on logits at the network's size.
        studies: `PreparedStudies`.

    Returns:
        `{"val_loss": ..., "val_adc_dice": ..., "val_adc_dice_slices": ..., ...}`: the loss over all
        slices, summed over the heads; for each head the mean over studies of the Dice at native
        resolution, and the mean over slices of the Dice at the network's size, without those that
        are empty in both masks.
    """
    losses, slices, dices = [], [], {m: [] for m in predictor.modalities}
    slice_dices = {m: [] for m in predictor.modalities}
    for study in studies:
        logits = predictor.logits(study.inputs)
        count, *size = next(iter(study.masks.values())).shape
        probabilities = predictor.restore(logits, *size)
        losses.append(sum(float(loss(study.targets[m], logits[m])) for m in study.masks))
        slices.append(count)
        for m, mask in study.masks.items():
            dices[m].append(dice(mask, probabilities[m] > predictor.threshold))
            marked = logits[m] > np.log(predictor.threshold / (1 - predictor.threshold))
            slice_dices[m] += _slice_dices(np.asarray(study.targets[m]), marked)
    scores = {f"val_{m}_dice": float(np.mean(values)) for m, values in dices.items()}
    scores |= {f"val_{m}_dice_slices": float(np.mean(v or 1)) for m, v in slice_dices.items()}
    return {"val_loss": float(np.average(losses, weights=slices))} | scores


def _slice_dices(reference, prediction):
    """Dice of each slice that is not empty in both masks."""
    pairs = zip(reference, prediction, strict=True)
    return [dice(a, b) for a, b in pairs if a.any() or b.any()]


class StudyValidation(keras.callbacks.Callback):
    """Adds the figures of `validate_prepared` to each epoch's logs, for the callbacks after it."""

    def __init__(self, predictor, loss, studies):
        super().__init__()
        self._predictor = predictor
        self._loss = loss
        self._studies = studies

    def on_epoch_end(self, epoch, logs=None):
        logs.update(validate_prepared(self._predictor, self._loss, self._studies))
