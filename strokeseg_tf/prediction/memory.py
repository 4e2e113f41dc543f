"""Images in memory -> a study, as if they had been read from files."""

from collections.abc import Mapping
from pathlib import Path

import nibabel
import numpy as np

from tfrecord_tools.errors import InputError
from tfrecord_tools.grid import Grid
from tfrecord_tools.reading import Volume, check_image, image_on
from tfrecord_tools.study import Study


def study_in_memory(images: Mapping[str, object], spacing_mm: np.ndarray) -> Study:
    """A study of images in memory, all on the grid of DWI where there is one.

    Args:
        images: By modality a nibabel image, or an array `[slices, height, width]` whose axes run
            towards superior, left and anterior.
        spacing_mm: Of arrays, along their axes.

    Raises:
        InputError: One of them is no image, shows nothing, or does not fit the other.
    """
    volumes = {m: _volume(m, image, spacing_mm) for m, image in images.items()}
    shapes = {m: volume.voxels.shape for m, volume in volumes.items()}
    arrays = [m for m, image in images.items() if not _is_image(image)]
    if arrays and (len(arrays) < len(images) or len(set(shapes.values())) > 1):
        raise InputError(
            f"adc and dwi as arrays must have one shape, received {shapes}; give nibabel images of "
            "studies whose images lie on different grids"
        )
    main = volumes.get("dwi", volumes.get("adc"))
    adc = volumes.get("adc", main)
    return Study(
        *("study", "study", "unknown"),
        images={m: image_on(main, volume) for m, volume in volumes.items()},
        masks={},
        grid=main.grid,
        adc_grid=None if adc.grid.agrees(main.grid) else adc.grid,
    )


def _volume(modality: str, image, spacing_mm) -> Volume:
    if _is_image(image):
        voxels, affine = np.asanyarray(image.dataobj), np.asarray(image.affine, np.float64)
        while voxels.ndim > 3 and voxels.shape[-1] == 1:
            voxels = voxels[..., 0]
    else:
        voxels = np.asarray(image)
        slices, height, width = spacing_mm
        # [slice, height, width] towards superior, left and anterior.
        affine = np.diag([0.0, 0, 0, 1])
        affine[2, 0], affine[0, 1], affine[1, 2] = slices, -height, width
    if voxels.ndim != 3 or not voxels.size or voxels.dtype.kind not in "iuf":
        raise InputError(
            f"{modality} must be a volume of numbers, received {voxels.ndim} axes of "
            f"{voxels.dtype} and the shape {voxels.shape}"
        )
    volume = Volume(Path(modality), voxels.astype(np.float32), Grid(voxels.shape, affine))
    check_image(volume)
    return volume


def _is_image(image) -> bool:
    return isinstance(image, nibabel.spatialimages.SpatialImage)
