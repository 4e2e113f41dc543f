"""What every model asks of a study's images."""

from collections.abc import Mapping

import numpy as np

from tfrecord_tools.errors import InputError

#: Larger studies are refused before they take a machine's memory.
MAX_SLICES, MAX_PIXELS = 2048, 4096


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
