"""`Study` <-> the records of its slice pairs."""

from collections.abc import Iterator, Sequence

import numpy as np

from tfrecord_tools.grid import Grid
from tfrecord_tools.study import Study
from tfrecord_tools.study_files import MODALITIES


def to_records(study: Study) -> Iterator[dict]:
    """The slice pairs of a study, from inferior to superior."""
    names = sorted(f"{rater}_{modality}" for rater, modality in study.masks)
    stacks = [study.masks[mask_key(name)] for name in names]
    slices, height, width = next(iter(study.images.values())).shape
    common = {
        "study": study.study,
        "patient": study.patient,
        "group": study.group,
        "slice_count": slices,
        "height": height,
        "width": width,
        "adc_scale": np.float64(study.adc_scale),
        "mask_names": tuple(names),
        "affine": study.grid.affine,
        "file_shape": np.array(study.grid.shape, np.int32),
        "adc_affine": study.adc_grid.affine if study.adc_grid else None,
        "adc_file_shape": np.array(study.adc_grid.shape, np.int32) if study.adc_grid else None,
    }
    for modality in MODALITIES:
        image = study.images.get(modality)
        common[f"{modality}_range"] = (
            None if image is None else np.array([image.min(), image.max()], np.float32)
        )
    for index in range(slices):
        pixels = {m: study.images[m][index] if m in study.images else None for m in MODALITIES}
        masks = np.zeros((len(names), height, width), bool)
        for mask, stack in zip(masks, stacks, strict=True):
            mask[:] = stack[index]
        yield common | pixels | {"slice_index": index, "masks": masks}


def from_records(records: Sequence[dict]) -> Study:
    """The inverse of `to_records`, for the complete records of one study in order."""
    first = records[0]
    images = {
        m: np.stack([record[m] for record in records]) for m in MODALITIES if first[m] is not None
    }
    masks = {
        mask_key(name): np.stack([record["masks"][i] for record in records])
        for i, name in enumerate(first["mask_names"])
    }
    adc_grid = None
    if first["adc_affine"] is not None:
        adc_grid = _grid(first["adc_file_shape"], first["adc_affine"])
    return Study(
        study=first["study"],
        patient=first["patient"],
        group=first["group"],
        images=images,
        masks=masks,
        grid=_grid(first["file_shape"], first["affine"]),
        adc_scale=float(first["adc_scale"]),
        adc_grid=adc_grid,
    )


def mask_key(name: str) -> tuple[str, str]:
    """ "r1_adc" -> ("r1", "adc"); raters may hold underscores, modalities do not."""
    rater, _, modality = name.rpartition("_")
    return rater, modality


def _grid(shape: np.ndarray, affine: np.ndarray) -> Grid:
    return Grid(tuple(int(n) for n in shape), affine)
