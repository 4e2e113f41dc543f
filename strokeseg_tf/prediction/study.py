"""A study and something that predicts -> results on the grids of the study's own files."""

import dataclasses

import numpy as np

from strokeseg_tf.prediction.lesions import keep_lesions
from tfrecord_tools.errors import InputError
from tfrecord_tools.grid import Grid, resample
from tfrecord_tools.study import Study


@dataclasses.dataclass(frozen=True, eq=False)
class Prediction:
    """One modality's result, in the order of the image file it belongs to.

    Attributes:
        probability: float32, shape of the file, in [0, 1].
        mask: bool, same shape: probability above the threshold, without the smallest lesions
            where they were not wanted.
        lesions: How many lesions (26 neighbours) the mask has.
        grid: The file's grid.
        uncertainty: float32, same shape, in [0, 0.5]: standard deviation over the predictions of
            an ensemble, or in mirrors; None where it was not asked for.
    """

    probability: np.ndarray
    mask: np.ndarray
    lesions: int
    grid: Grid
    uncertainty: np.ndarray | None = None

    @property
    def volume_ml(self) -> float:
        """Volume of the mask in millilitres."""
        return float(self.mask.sum()) * self.grid.voxel_ml


def predict_study(
    predictor, study: Study, *, min_lesion_ml: float = 0.0, uncertainty: bool = False
) -> dict[str, Prediction]:
    """Predict a study and put each modality's result on the grid of its own file.

    Args:
        predictor: A `strokeseg_tf.prediction.network.NetworkPredictor`, or what has its `predict`,
            `modalities`, `threshold`.
        study: A study as `tfrecord_tools.study.read_study` reads it.
        min_lesion_ml: Smaller lesions are left out of the masks.
        uncertainty: Whether to keep how much the predictions differ.

    Returns:
        `Prediction` by modality.

    Raises:
        InputError: The model cannot take the study, or predicts it only once.
    """
    if uncertainty:
        check_repeated(predictor)
        slices, spread = predictor.predict_with_spread(study.images)
    else:
        slices, spread = predictor.predict(study.images), {}
    predictions = {}
    for modality, probability in slices.items():
        grid = study.own_grid(modality)
        probability = _on_own_grid(probability, study, grid)
        mask, lesions = keep_lesions(
            probability > predictor.threshold, grid.voxel_ml, min_lesion_ml
        )
        around = _on_own_grid(spread[modality], study, grid) if uncertainty else None
        predictions[modality] = Prediction(probability, mask, lesions, grid, around)
    return predictions


def check_repeated(predictor) -> None:
    """Refuse to tell an uncertainty where there is a single prediction.

    Raises:
        InputError: There is.
    """
    if not hasattr(predictor, "predict_with_spread"):
        raise InputError(
            "an uncertainty is the spread of several predictions, and there is one; add models "
            "with --ensemble, or mirrors with --tta"
        )


def _on_own_grid(slices: np.ndarray, study: Study, grid: Grid) -> np.ndarray:
    volume = study.grid.to_volume(slices)
    return volume if grid is study.grid else resample(volume, study.grid, grid, order=1)
