"""`StudyFiles` -> `Study`: volumes on one grid, ADC with a known unit, boolean masks."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from tfrecord_tools.errors import InputError
from tfrecord_tools.grid import Grid, resample
from tfrecord_tools.nifti import read_mask, read_volume
from tfrecord_tools.study_files import StudyFiles

#: Factor from each unit of ADC to 1e-3 mm2/s.
ADC_UNITS = {"1e-3": 1.0, "mm2/s": 1e3, "1e-6": 1e-3}

#: Medians of ADC over the brain, in 1e-3 mm2/s, that are believed.
PLAUSIBLE_MEDIAN = (0.2, 4.0)


@dataclasses.dataclass(frozen=True, eq=False)
class Study:
    """One study in memory, every array [slice, height, width] on one grid.

    Attributes:
        study: Identifier.
        patient: Identifier of the patient.
        group: "stroke", "control", or "unknown" for a study nobody has drawn on.
        images: float32 by modality, with the values of the files; see `adc_scale`.
        masks: bool by (rater, modality), True on lesion.
        grid: The grid of the arrays: that of DWI where there is one, else that of ADC.
        adc_scale: Factor from the ADC file's unit to 1e-3 mm2/s.
        adc_grid: The ADC file's own grid where ADC was resampled, else None.
    """

    study: str
    patient: str
    group: str
    images: Mapping[str, np.ndarray]
    masks: Mapping[tuple[str, str], np.ndarray]
    grid: Grid
    adc_scale: float = 1.0
    adc_grid: Grid | None = None

    def own_grid(self, modality: str) -> Grid:
        """The grid of a modality's file."""
        return self.adc_grid if modality == "adc" and self.adc_grid else self.grid

    def in_standard_unit(self, modality: str) -> np.ndarray:
        """Image as float32, ADC in 1e-3 mm2/s."""
        image = self.images[modality]
        return image * np.float32(self.adc_scale) if modality == "adc" else image


def check_adc_unit(unit: str) -> None:
    """Refuse what is neither "auto" nor a key of `ADC_UNITS`.

    Raises:
        InputError: It names the known units.
    """
    if unit not in ("auto", *ADC_UNITS):
        raise InputError(f"unknown ADC unit {unit!r}; use auto, {', '.join(ADC_UNITS)}")


def read_study(files: StudyFiles, adc_unit: str = "auto") -> Study:
    """Read one study: images, masks, one grid, one unit.

    Args:
        files: Where its images and masks are.
        adc_unit: See `check_adc_unit`; "auto" infers it from the brain's median.

    Raises:
        InputError: A file cannot be read, or what it holds cannot be trusted.
    """
    check_adc_unit(adc_unit)
    volumes, grids = {}, {}
    for modality, path in files.images.items():
        volumes[modality], grids[modality] = read_volume(path)
        _check_voxels(volumes[modality], path)
    grid = grids.get("dwi", grids.get("adc"))
    masks = {key: _read_mask_on(path, key[1], grids, grid) for key, path in files.masks.items()}
    adc_grid = None
    if "adc" in grids and not grids["adc"].agrees(grid):
        adc_grid = grids["adc"]
        volumes["adc"] = resample(volumes["adc"], adc_grid, grid, order=1)
        if not volumes["adc"].any():
            raise InputError(
                f"{files.images['adc']} shows nothing where {files.images['dwi']} lies; "
                "check that both are of one study and that their headers are right"
            )
    scale = 1.0
    if "adc" in volumes:
        scale = _adc_scale(volumes["adc"], volumes.get("dwi"), adc_unit, files.images["adc"])
    return Study(
        study=files.study,
        patient=files.patient,
        group=files.group or _group_of(masks),
        images={m: grid.to_slices(v) for m, v in volumes.items()},
        masks={key: grid.to_slices(mask) for key, mask in masks.items()},
        grid=grid,
        adc_scale=scale,
        adc_grid=adc_grid,
    )


def _check_voxels(volume: np.ndarray, path: Path) -> None:
    bad = int(volume.size - np.isfinite(volume).sum())
    if bad:
        raise InputError(
            f"{path} has {bad} voxels that are NaN or infinite; replace them (with 0 outside "
            "the head) and try again"
        )
    if volume.min() == volume.max():
        raise InputError(
            f"{path} is constant ({volume.flat[0]:g} everywhere) and shows nothing; "
            "export the image again or leave the study out"
        )


def _read_mask_on(path: Path, modality: str, images: Mapping[str, Grid], grid: Grid) -> np.ndarray:
    """A mask on the study's grid; it must lie on the grid of one of the study's images."""
    mask, own = read_mask(path)
    if own.agrees(grid):
        return mask
    drawn_on = images.get(modality, grid)
    if not own.agrees(drawn_on):
        raise InputError(
            f"{path} lies on another grid than its {modality} image (shape {own.shape} against "
            f"{drawn_on.shape}, or another affine); draw or resample it on that image"
        )
    return resample(mask, own, grid, order=0) > 0.5


def _group_of(masks: Mapping[tuple[str, str], np.ndarray]) -> str:
    if not masks:
        return "unknown"
    return "stroke" if any(mask.any() for mask in masks.values()) else "control"


def _adc_scale(adc: np.ndarray, dwi: np.ndarray | None, unit: str, path: Path) -> float:
    """Factor from the file's unit to 1e-3 mm2/s, inferred from the brain's median ADC."""
    if unit != "auto":
        return ADC_UNITS[unit]
    inside = (adc > 0) if dwi is None else (adc > 0) & (dwi > dwi.mean())
    median = float(np.median(adc[inside])) if inside.any() else 0.0
    low, high = PLAUSIBLE_MEDIAN
    for factor in ADC_UNITS.values():
        if low <= median * factor <= high:
            return factor
    raise InputError(
        f"{path}: the brain's median ADC is {median:g}, which fits no unit; "
        f"say which it is with --adc-unit ({', '.join(ADC_UNITS)})"
    )
