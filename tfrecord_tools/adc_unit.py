"""The unit of an ADC map, by the brain's median."""

from collections.abc import Mapping

import numpy as np

from tfrecord_tools.errors import InputError

#: Factor from each unit of ADC to 1e-3 mm2/s.
ADC_UNITS = {"1e-3": 1.0, "mm2/s": 1e3, "1e-6": 1e-3}

#: Medians of ADC over the brain, in 1e-3 mm2/s, that are believed. They are 0.85 to 1.1 in stroke
#: studies, about 0.55 where most of the brain is infarcted, and up to 1.6 in infants. Wider limits
#: would take an image that was scaled to [0, 1] for an ADC map in 1e-3 mm2/s.
PLAUSIBLE_MEDIAN = (0.4, 2.5)


def check_adc_unit(unit: str) -> None:
    """Refuse what is neither "auto" nor a key of `ADC_UNITS`.

    Raises:
        InputError: It names the known units.
    """
    if unit not in ("auto", *ADC_UNITS):
        raise InputError(f"unknown ADC unit {unit!r}; use auto, {', '.join(ADC_UNITS)}")


def find_brain(images: Mapping[str, np.ndarray]) -> np.ndarray:
    """About the brain, for statistics over it: bool of the images' shape.

    Where DWI is brighter than its mean; in a study without DWI, where ADC is not 0 in the middle
    of the slices, away from the noise that some scanners leave around the head.
    """
    if "dwi" in images:
        with np.errstate(over="ignore"):  # Of values beyond all reason no voxel is brain.
            return images["dwi"] > images["dwi"].mean()
    measured = images["adc"] != 0
    middle = np.zeros_like(measured)
    _, height, width = measured.shape
    inner = (slice(None), *(slice(size // 4, size - size // 4) for size in (height, width)))
    middle[inner] = measured[inner]
    return middle if middle.any() else measured


def median_adc(adc: np.ndarray, brain: np.ndarray) -> float:
    """Median over the brain in the image's unit, 0 where nothing is measured.

    Negative voxels count: half of the brain of a z-scored map is negative, and its median of
    about 0 fits no unit. Voxels of exactly 0 were masked out by the scanner.
    """
    inside = adc[brain]
    inside = inside[inside != 0]
    return float(np.median(inside)) if inside.size else 0.0


def unit_of_median(median: float) -> str | None:
    """The unit in which the brain's median ADC is plausible; None for none."""
    low, high = PLAUSIBLE_MEDIAN
    return next((u for u, factor in ADC_UNITS.items() if low <= median * factor <= high), None)
