"""Prediction from Python: models loaded once, images in memory or on disk."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from strokeseg_tf.loading import load_predictors
from strokeseg_tf.prediction.engines import Computing
from strokeseg_tf.prediction.memory import study_in_memory
from strokeseg_tf.prediction.study import Prediction, check_repeated, predict_study
from tfrecord_tools.errors import InputError
from tfrecord_tools.study import read_study
from tfrecord_tools.study_files import MODALITIES, StudyFiles


class Predictor:
    """Segments studies with one model, or several together.

    The models are loaded here, once. `predict` may be called from several threads at a time.

    Args:
        model: What `strokeseg_tf.loading.load_predictor` takes: a run folder, a `.keras` file, a
            SavedModel folder or an address. A list of them predicts together, by mean probability.
        threshold: Probability above which a voxel is lesion; by default what the run chose.
        vote: Mark what more than half of the models mark, instead of taking the mean.
        tta: Predict each study in mirrors too (test-time augmentation).
        min_lesion_ml: Smaller lesions are left out of the masks.
        engine: What computes runs and `.keras` files, "auto", "tensorflow" or "openvino"; see
            `strokeseg_tf.prediction.engines.Computing`, as for `precision`.
        precision: "auto", "float32" or "bfloat16".

    Raises:
        InputError: A model cannot be loaded.
    """

    def __init__(
        self,
        model: str | Path | Sequence[str | Path],
        *,
        threshold: float | None = None,
        vote: bool = False,
        tta: bool = False,
        min_lesion_ml: float = 0.0,
        engine: str = "auto",
        precision: str = "auto",
    ):
        models = [model] if isinstance(model, str | Path) else list(model)
        if not models:
            raise InputError("a Predictor needs a model; name at least one")
        self._predictor = load_predictors(
            models,
            vote=vote,
            mirrored=tta,
            threshold=threshold,
            computing=Computing(engine, precision),
        )
        self._min_lesion_ml = min_lesion_ml

    @property
    def modalities(self) -> tuple[str, ...]:
        """What the models take and give: "adc", "dwi" or both."""
        return self._predictor.modalities

    @property
    def threshold(self) -> float:
        """Probability above which a voxel is lesion."""
        return self._predictor.threshold

    def predict(
        self,
        adc=None,
        dwi=None,
        *,
        spacing_mm: Sequence[float] = (1.0, 1.0, 1.0),
        uncertainty: bool = False,
    ) -> dict[str, Prediction]:
        """Segment one study.

        Args:
            adc: ADC map in any unit: a nibabel image, the path of an image file, or an array
                `[slices, height, width]` whose axes run towards superior, left and anterior. None
                where the model needs none.
            dwi: The diffusion-weighted image, as `adc`.
            spacing_mm: Distance of voxels along the axes of arrays, for volumes in ml. Images say
                theirs themselves.
            uncertainty: Keep the standard deviation over models and mirrors.

        Returns:
            By modality a `Prediction`, whose arrays have the shape of the image it belongs to.

        Raises:
            InputError: An image is missing, is no image, or does not fit the other.
        """
        if uncertainty:
            check_repeated(self._predictor)
        given = zip(MODALITIES, (adc, dwi), strict=True)
        images = {m: image for m, image in given if image is not None}
        return predict_study(
            self._predictor,
            _study_of(images, spacing_mm),
            min_lesion_ml=self._min_lesion_ml,
            uncertainty=uncertainty,
        )


def _study_of(images, spacing_mm):
    paths = [isinstance(image, str | Path) for image in images.values()]
    if not images:
        raise InputError("nothing to predict: give adc, dwi or both")
    if any(paths):
        if not all(paths):
            raise InputError("adc and dwi must both be paths, or both be images in memory")
        files = {m: Path(path) for m, path in images.items()}
        return read_study(StudyFiles("study", files), adc_unit="1e-3")
    return study_in_memory(images, np.asarray(spacing_mm, float))
