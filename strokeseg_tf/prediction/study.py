"""A study and something that predicts -> results on the grids of the study's own files."""

import dataclasses

import numpy as np

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


def predict_study(predictor, study: Study) -> dict[str, Prediction]:
    """Predict a study and put each modality's result on the grid of its own file.

    Args:
        predictor: A `strokeseg_tf.prediction.network.NetworkPredictor`, or what has its `predict`,
            `modalities`, `threshold`.
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
