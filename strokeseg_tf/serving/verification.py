"""Is an export as it was written, and does it compute the same on this machine?"""

import zipfile
from pathlib import Path

import numpy as np
import tensorflow as tf

from strokeseg_tf.serving.inspection import check_operations
from strokeseg_tf.serving.layout import (
    DESCRIPTION,
    EXAMPLE,
    file_differences,
    read_description,
    version_folder,
)
from strokeseg_tf.serving.precision import PRECISIONS
from tfrecord_tools.errors import InputError
from tfrecord_tools.grid import Grid
from tfrecord_tools.phantom.cohort import make_phantom
from tfrecord_tools.shards import sha256_of

#: The example: slices, height and width. A phantom, so that no patient travels with a model.
SLICES, MATRIX = 8, 64


def write_example(folder: Path, modalities) -> None:
    """Write a phantom beside the probabilities that the SavedModel in `folder` gives for it."""
    phantom = make_phantom(1, seed=0, group="stroke", matrix=MATRIX, slices=(SLICES, SLICES))
    grid = Grid(phantom.adc.shape, phantom.affine)
    study = {m: grid.to_slices(getattr(phantom, m)) for m in modalities}
    np.savez_compressed(folder / EXAMPLE, **study, **_answer(folder, study))


def verify(export: str | Path) -> dict:
    """Recompute the checksums of an export and its stored example.

    Args:
        export: Folder of a version, or of versions: then the highest.

    Returns:
        `export` (the version's folder), `description_sha256` (all other checksums hang on it),
        `files` (how many), `differences` (sentences, none where all is well) and `example`:
        `max_difference` of the probabilities and its `tolerance`, or None where files differ, for
        then nothing is run.

    Raises:
        InputError: This is no export, it is damaged beyond checking, or it would do harm.
    """
    folder = version_folder(export)
    description = read_description(folder)
    files = description.get("files")
    if not isinstance(files, dict):
        raise InputError(f"{folder / DESCRIPTION} lists no checksums; export the run anew")
    differences = file_differences(folder, files)
    example = None
    if not differences:
        check_operations(folder)
        tolerance = PRECISIONS.get(description.get("precision"), PRECISIONS["bfloat16"]).tolerance
        distance = _example_distance(folder)
        example = {"max_difference": distance, "tolerance": tolerance}
        if not distance <= tolerance:
            differences = [
                f"the probabilities of {EXAMPLE} are off by {distance:.2g}, more than {tolerance}"
            ]
    return {
        "export": str(folder),
        "description_sha256": sha256_of(folder / DESCRIPTION),
        "files": len(files),
        "example": example,
        "differences": differences,
    }


def _example_distance(folder: Path) -> float:
    """Largest difference between the stored probabilities and those of here and now."""
    stored = _read_example(folder / EXAMPLE)
    expected = {name: stored.pop(name) for name in list(stored) if name.endswith("_probability")}
    found = _answer(folder, stored)
    if {n: x.shape for n, x in found.items()} != {n: x.shape for n, x in expected.items()}:
        raise InputError(f"{folder / EXAMPLE} is of another model; export the run anew")
    return max(float(np.abs(found[name] - expected[name]).max()) for name in found)


def _read_example(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is damaged ({error}); export the run anew") from error


def _answer(folder: Path, study: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What `serving_default` gives for a study."""
    try:
        model = tf.saved_model.load(str(folder))
        outputs = model.signatures["serving_default"](**study)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, tf.errors.OpError) as error:
        reason = " ".join(str(error).split())[:160]
        raise InputError(f"{folder} does not answer its example ({reason})") from error
    return {name: value.numpy() for name, value in outputs.items()}
