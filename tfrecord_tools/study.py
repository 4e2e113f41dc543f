"""`StudyFiles` -> `Study`: volumes on one grid, ADC with a known unit, boolean masks."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from tfrecord_tools.adc_unit import check_adc_unit
from tfrecord_tools.grid import Grid
from tfrecord_tools.reading import Reading, read_files
from tfrecord_tools.study_files import StudyFiles


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


def read_study(files: StudyFiles, adc_unit: str = "auto") -> Study:
    """Read one study: images, masks, one grid, one unit.

    Args:
        files: Where its images and masks are.
        adc_unit: See `check_adc_unit`; "auto" infers it from the brain's median.

    Raises:
        InputError: A file cannot be read, or what it holds cannot be trusted.
    """
    check_adc_unit(adc_unit)
    reading = read_files(files, adc_unit)
    if reading.faults:
        raise reading.faults[0]
    return build_study(reading)


def build_study(reading: Reading) -> Study:
    """The study of a reading without faults."""
    return Study(
        study=reading.files.study,
        patient=reading.files.patient,
        group=reading.files.group or _group_of(reading.masks),
        images=reading.images,
        masks=reading.masks,
        grid=reading.grid,
        adc_scale=1.0 if reading.adc_scale is None else reading.adc_scale,
        adc_grid=reading.adc_grid,
    )


def _group_of(masks: Mapping[tuple[str, str], np.ndarray]) -> str:
    if not masks:
        return "unknown"
    return "stroke" if any(mask.any() for mask in masks.values()) else "control"
