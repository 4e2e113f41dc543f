"""A model and a study -> probabilities and masks on the study's own grid."""

import dataclasses
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from strokeseg_tf.models.variants import modalities_of
from strokeseg_tf.preprocessing import (
    MAX_PIXELS,
    MAX_SLICES,
    preprocess,
    restore,
    volume_range,
)
from tfrecord_tools.errors import InputError
from tfrecord_tools.grid import Grid, resample
from tfrecord_tools.study import Study


@dataclasses.dataclass(frozen=True, eq=False)
class Prediction:
    """One modality's result, in the order of the image file it belongs to.

    Attributes:
        probability: float32, shape of the file, in [0, 1].
        mask: bool, same shape: probability above the threshold.
        grid: The file's grid.
    """

    probability: np.ndarray
    mask: np.ndarray
    grid: Grid

    @property
    def volume_ml(self) -> float:
        """Volume of the mask in millilitres."""
        return float(self.mask.sum()) * self.grid.voxel_ml


def check_study(modalities, images: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The images that a model needs, as float32.

    What the served graph refuses is refused for every model, in the same words.

    Args:
        modalities: What the model needs.
        images: `(slices, height, width)` by modality; others are left out.

    Raises:
        InputError: One is missing, holds NaN or infinite voxels, has no voxel or too many, or their
            shapes differ.
    """
    missing = [m for m in modalities if m not in images]
    if missing:
        raise InputError(
            f"the model needs {' and '.join(modalities)}, but there is no "
            f"{' and no '.join(missing)}; give that image or use a unimodal model"
        )
    study = {m: np.asarray(images[m], np.float32) for m in modalities}
    shapes = {m: volume.shape for m, volume in study.items()}
    shape = shapes[modalities[0]]
    if len(set(shapes.values())) > 1:
        raise InputError(f"adc and dwi must have one shape, received {shapes}; resample one")
    if len(shape) != 3 or not all(shape):
        raise InputError(
            f"a study needs at least one slice and pixel, as (slices, height, width); received "
            f"the shape {shape}"
        )
    if shape[0] > MAX_SLICES or max(shape[1:]) > MAX_PIXELS:
        raise InputError(
            f"a study has at most {MAX_SLICES} slices of {MAX_PIXELS} x {MAX_PIXELS} pixels, "
            f"received {shape}; divide or resample it"
        )
    for modality, volume in study.items():
        if not np.isfinite(volume).all():
            raise InputError(f"{modality} has NaN or infinite voxels; repair the image")
    return study


class Predictor:
    """Runs a model over whole studies.

    Args:
        model: A network of `strokeseg_tf.models` that gives logits.
        threshold: Probability above which a voxel is lesion.
        batch_size: Slices that go through the network at once.
    """

    #: Only exports are numbered.
    version = None
    #: Studies at a time that keep it busy: one takes all cores.
    parallel = 1

    def __init__(self, model, *, threshold=0.5, batch_size=8):
        self.modalities = modalities_of(model)
        self.threshold = threshold
        self.size = next(iter(model.input.values())).shape[1]
        self._batch_size = batch_size
        self._forward = tf.function(
            lambda inputs: {m: tf.cast(y, tf.float32) for m, y in model(inputs).items()},
            input_signature=[
                {m: tf.TensorSpec((None, self.size, self.size, 1)) for m in self.modalities}
            ],
        )

    def preprocess(self, images: Mapping[str, np.ndarray]) -> dict:
        """The network's input for a study's images `{modality: (slices, height, width)}`."""
        return {
            m: preprocess(volume, volume_range(volume), self.size)
            for m, volume in check_study(self.modalities, images).items()
        }

    def logits(self, inputs: Mapping) -> dict[str, np.ndarray]:
        """Logits `{modality: (slices, size, size, 1)}` of preprocessed inputs, in batches."""
        count = len(next(iter(inputs.values())))
        parts = [
            self._forward({m: x[i : i + self._batch_size] for m, x in inputs.items()})
            for i in range(0, count, self._batch_size)
        ]
        return {m: np.concatenate([part[m] for part in parts]) for m in self.modalities}

    def predict(self, images: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Probabilities for a study.

        Args:
            images: float32 `(slices, height, width)` by modality, in any unit, one shape.

        Returns:
            float32 `(slices, height, width)` in [0, 1] by modality.

        Raises:
            InputError: See `check_study`.
        """
        logits = self.logits(self.preprocess(images))
        return self.restore(logits, *images[self.modalities[0]].shape[1:])

    def restore(self, logits, height, width):
        """Probabilities on the study's slices from logits at the network's size."""
        return {
            m: restore(tf.sigmoid(values), height, width).numpy() for m, values in logits.items()
        }


def predict_study(predictor, study: Study) -> dict[str, Prediction]:
    """Predict a study and put each modality's result on the grid of its own file.

    Args:
        predictor: A `Predictor`, or anything with its `predict`, `modalities`, `threshold`.
        study: A study as `tfrecord_tools.study.read_study` reads it.

    Returns:
        `Prediction` by modality.
    """
    predictions = {}
    for modality, slices in predictor.predict(study.images).items():
        probability = study.grid.to_volume(slices)
        grid = study.own_grid(modality)
        if grid is not study.grid:
            probability = resample(probability, study.grid, grid, order=1)
        mask = probability > predictor.threshold
        predictions[modality] = Prediction(probability, mask, grid)
    return predictions
