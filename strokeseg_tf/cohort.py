"""Predict many studies and write what belongs on disk."""

import json
import time
from pathlib import Path

import cc3d
import numpy as np

from strokeseg_tf.prediction import predict_study
from tfrecord_tools.atomic import new_folder
from tfrecord_tools.errors import InputError
from tfrecord_tools.names import file_name
from tfrecord_tools.nifti import write_like
from tfrecord_tools.study import read_study

#: What a predictions folder says of itself.
RESULT = "predictions.json"


def predict_cohort(
    predictor, files, out, *, model, probabilities=False, overwrite=False, on_study=None
):
    """Predict studies and write masks, probabilities and `predictions.json`.

    A study that cannot be read does not stop the others.

    Args:
        predictor: See `strokeseg_tf.loading.load_predictor`.
        files: `tfrecord_tools.layouts.StudyFiles` of the studies; their masks are not read.
        out: Folder to write; it appears whole or not at all.
        model: Name of the model, for `predictions.json`.
        probabilities: Whether to write probabilities beside the masks.
        overwrite: Replace `out` if it exists.
        on_study: Called with (studies done, studies in all).

    Returns:
        What `predictions.json` holds: model, threshold, studies, and failed studies with reasons.

    Raises:
        InputError: `out` exists, or every study failed (then nothing is written).
    """
    studies, failed = {}, {}
    with new_folder(out, overwrite, marker=RESULT) as folder:
        for done, study_files in enumerate(files, 1):
            try:
                entry = _predict_one(predictor, study_files, folder, probabilities)
                studies[study_files.study] = entry
            except InputError as error:
                failed[study_files.study] = str(error)
            if on_study:
                on_study(done, len(files))
        if not studies:
            raise InputError("; ".join(f"{study}: {why}" for study, why in failed.items()))
        result = {
            "model": str(model),
            "threshold": predictor.threshold,
            "intended_use": "Research only. Not a medical device.",
            "studies": studies,
            "failed": failed,
        }
        text = json.dumps(result, indent=2) + "\n"
        (folder / RESULT).write_text(text, encoding="utf-8")
    return result


def _predict_one(predictor, files, folder: Path, probabilities) -> dict:
    start = time.perf_counter()
    # Nobody's masks, and no unit: the normalisation over the volume needs neither.
    study = read_study(files.without_masks(), adc_unit="1e-3")
    masks = {}
    for modality, prediction in predict_study(predictor, study).items():
        stem = f"{file_name(files.study)}_{modality}"
        source = files.images[modality]
        write_like(folder / f"{stem}_mask.nii.gz", prediction.mask, source)
        if probabilities:
            probability = prediction.probability.astype(np.float32)
            write_like(folder / f"{stem}_probability.nii.gz", probability, source)
        lesions = cc3d.connected_components(prediction.mask, connectivity=26, return_N=True)[1]
        masks[modality] = {"volume_ml": round(prediction.volume_ml, 6), "lesions": int(lesions)}
    return {"seconds": round(time.perf_counter() - start, 3), "masks": masks}
