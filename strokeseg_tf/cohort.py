"""Predict many studies and write what belongs on disk."""

import functools
import json
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import cc3d
import numpy as np

from strokeseg_tf.prediction.study import predict_study
from tfrecord_tools.atomic import new_folder
from tfrecord_tools.errors import InputError
from tfrecord_tools.names import file_name
from tfrecord_tools.nifti import write_like
from tfrecord_tools.study import read_study

#: What a predictions folder says of itself.
RESULT = "predictions.json"


def predict_cohort(
    predictor,
    files,
    out,
    *,
    model,
    probabilities=False,
    overwrite=False,
    parallel=1,
    on_study=None,
):
    """Predict studies and write masks, probabilities and `predictions.json`.

    A study that cannot be read or predicted does not stop the others.

    Args:
        predictor: See `strokeseg_tf.loading.load_predictor`.
        files: `tfrecord_tools.layouts.StudyFiles` of the studies; their masks are not read.
        out: Folder to write; it appears whole or not at all.
        model: Name of the model, for `predictions.json`.
        probabilities: Whether to write probabilities beside the masks.
        overwrite: Replace `out` if it exists.
        parallel: How many studies are read, predicted and written at a time.
        on_study: Called with (studies done, studies in all).

    Returns:
        What `predictions.json` holds: model, its version, threshold, studies, and failed studies
        with reasons; all in the order of `files`.

    Raises:
        InputError: `out` exists, or every study failed (then nothing is written).
    """
    with new_folder(out, overwrite, marker=RESULT) as folder:
        writing = _Writing()
        work = functools.partial(_predict_one, predictor, folder, probabilities, writing)
        outcomes = _in_threads(work, files, parallel, writing, on_study)
        studies = {name: entry for name, entry in outcomes.items() if isinstance(entry, dict)}
        failed = {name: why for name, why in outcomes.items() if isinstance(why, str)}
        if not studies:
            raise InputError(summarise_failures(failed))
        result = {
            "model": str(model),
            "version": predictor.version,
            "threshold": predictor.threshold,
            "intended_use": "Research only. Not a medical device.",
            "studies": studies,
            "failed": failed,
        }
        text = json.dumps(result, indent=2) + "\n"
        (folder / RESULT).write_text(text, encoding="utf-8")
    return result


def summarise_failures(failed: Mapping[str, str]) -> str:
    """Studies and why they failed, in one line; those with one reason together."""
    studies = {}
    for study, why in failed.items():
        studies.setdefault(why, []).append(study)
    return "; ".join(f"{_names(names)}: {why}" for why, names in studies.items())


def _names(names) -> str:
    rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + rest


class _Writing:
    """Counts who writes, so that nobody does any more once it is closed."""

    def __init__(self):
        self._changed = threading.Condition()
        self._writers, self._closed = 0, False

    def __enter__(self):
        with self._changed:
            if self._closed:
                raise InterruptedError("the prediction was stopped")
            self._writers += 1

    def __exit__(self, *error):
        with self._changed:
            self._writers -= 1
            self._changed.notify_all()

    def close(self):
        """Let nobody begin to write, and wait for those who do."""
        with self._changed:
            self._closed = True
            self._changed.wait_for(lambda: not self._writers)


def _in_threads(work, files, threads, writing, on_study) -> dict:
    """What `work` returns for each study, or why it failed, in the order of `files`.

    The main thread only waits, so that Ctrl-C is heard at once; the others are then left to
    themselves, but write no more.
    """
    executor = ThreadPoolExecutor(threads, thread_name_prefix="study")
    try:
        futures = {executor.submit(work, study_files): study_files.study for study_files in files}
        outcomes = dict.fromkeys(futures.values())
        for done, future in enumerate(as_completed(futures), 1):
            try:
                outcomes[futures[future]] = future.result()
            except InputError as error:
                outcomes[futures[future]] = str(error)
            if on_study:
                on_study(done, len(files))
    except BaseException:
        executor.shutdown(wait=False, cancel_futures=True)
        writing.close()
        raise
    executor.shutdown()
    return outcomes


def _predict_one(predictor, folder: Path, probabilities, writing, files) -> dict:
    start = time.perf_counter()
    # Nobody's masks, and no unit: the normalisation over the volume needs neither.
    study = read_study(files.without_masks(), adc_unit="1e-3")
    predictions = predict_study(predictor, study)
    with writing:
        _write(predictions, files, folder, probabilities)
    masks = {}
    for modality, prediction in predictions.items():
        lesions = cc3d.connected_components(prediction.mask, connectivity=26, return_N=True)[1]
        masks[modality] = {"volume_ml": round(prediction.volume_ml, 6), "lesions": int(lesions)}
    return {"seconds": round(time.perf_counter() - start, 3), "masks": masks}


def _write(predictions, files, folder, probabilities):
    for modality, prediction in predictions.items():
        stem = f"{file_name(files.study)}_{modality}"
        source = files.images[modality]
        write_like(folder / f"{stem}_mask.nii.gz", prediction.mask, source)
        if probabilities:
            probability = prediction.probability.astype(np.float32)
            write_like(folder / f"{stem}_probability.nii.gz", probability, source)
