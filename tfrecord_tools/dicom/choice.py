"""Which of a study's volumes are its DWI, its b = 0 image and its ADC map."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from tfrecord_tools.adc_unit import ADC_UNITS, find_brain, median_adc, unit_of_median
from tfrecord_tools.dicom.files import DicomFile
from tfrecord_tools.dicom.volumes import Volumes
from tfrecord_tools.diffusion import LOWEST_B, SHELL_WIDTH, WANTED_B, derive_adc

#: b-values, in s/mm2, that need no remark.
USUAL_B_VALUE = (800, 1200)

#: Fewer directions than this are no trace.
DIRECTIONS_OF_A_TRACE = 3


@dataclasses.dataclass(frozen=True, eq=False)
class Picked:
    """The images of a study.

    Attributes:
        dwi: The weighted volumes, or None.
        b0: What ADC is derived from beside them, or None.
        adc: ADC in 1e-6 mm2/s, or None.
        adc_source: The vendor's map, or None where ADC is derived.
        remarks: What is to be known, one sentence each.
    """

    dwi: Volumes | None
    b0: Volumes | None
    adc: np.ndarray | None
    adc_source: Volumes | None
    remarks: tuple[str, ...]

    @property
    def images(self) -> dict[str, np.ndarray]:
        """The images by modality."""
        dwi = {} if self.dwi is None else {"dwi": self.dwi.mean}
        return dwi if self.adc is None else {"adc": self.adc} | dwi

    @property
    def sources(self) -> dict[str, tuple[DicomFile, ...]]:
        """The files on whose grid each image lies, by modality; a derived ADC has those of DWI."""
        volumes = {"adc": self.adc_source or self.dwi, "dwi": self.dwi}
        files = {modality: volumes[modality].files for modality in self.images}
        return {m: tuple({f.path: f for f in found}.values()) for m, found in files.items()}

    @property
    def files(self) -> tuple[DicomFile, ...]:
        """The files of DWI, or of ADC where there is no DWI."""
        return (self.dwi or self.adc_source).files


def pick(found: Sequence[Volumes]) -> Picked:
    """Choose among the volumes of one study.

    DWI is what has the b-value nearest to 1000, a trace before single directions. The ADC map is
    the vendor's; of several the one on DWI's grid with the nearest series number. Without one it
    is derived where an image at b = 0 has DWI's grid and echo time.
    """
    remarks = []
    dwi = _pick_dwi(found)
    if dwi:
        remarks += [*_remarks_on(dwi, found), *_remarks_on_slices(dwi, found)]
    maps = [volumes for volumes in found if volumes.kind == "adc"]
    for volumes in sorted(maps, key=lambda volumes: _distance(volumes, dwi)):
        adc = _in_micro(volumes)
        if adc is not None:
            remarks += _remarks_on_slices(volumes, found)
            return Picked(dwi, None, adc, volumes, tuple(remarks))
        remarks.append(f"series {volumes.series} is left out: no unit of ADC fits its values")
    b0 = _pick_b0(found, dwi) if dwi else None
    if dwi and not b0:
        remarks.append("no ADC: there is neither a map nor a b = 0 image that fits DWI")
    adc = None
    if b0:
        adc = derive_adc(dwi.mean, b0.mean, dwi.b_value - b0.b_value)
    return Picked(dwi, b0, adc, None, tuple(remarks))


def _pick_dwi(found: Sequence[Volumes]) -> Volumes | None:
    weighted = [v for v in found if v.kind == "weighted" and v.b_value >= LOWEST_B]
    if not weighted:
        return None
    nearest = min(abs(volumes.b_value - WANTED_B) for volumes in weighted)
    near = [v for v in weighted if abs(v.b_value - WANTED_B) <= nearest + SHELL_WIDTH]
    best = min(near, key=lambda v: (not v.isotropic, -v.directions, v.series))
    if best.isotropic:
        return best
    return _with_all_directions(best, near)


def _with_all_directions(best: Volumes, near: Sequence[Volumes]) -> Volumes:
    """Directions of one series whose b-values differ a little are one shell."""
    members = [
        v
        for v in near
        if v.origin == best.origin
        and not v.isotropic
        and abs(v.b_value - best.b_value) <= SHELL_WIDTH
        and v.grid.agrees(best.grid)
    ]
    if len(members) == 1:
        return best
    b_value = np.average([v.b_value for v in members], weights=[v.directions for v in members])
    return dataclasses.replace(
        best,
        b_value=float(b_value),
        stack=np.concatenate([v.stack for v in members], axis=3),
        files=tuple(file for v in members for file in v.files),
    )


def _remarks_on(dwi: Volumes, found: Sequence[Volumes]):
    low, high = USUAL_B_VALUE
    if not low <= dwi.b_value <= high:
        others = sorted({round(v.b_value) for v in found if v.kind == "weighted"})
        yield (
            f"DWI has b = {dwi.b_value:g} s/mm2, which is not {low} to {high}, but the nearest to "
            f"{WANTED_B} of b = {', '.join(map(str, others))}"
        )
    if not dwi.isotropic and dwi.directions < DIRECTIONS_OF_A_TRACE:
        count = f"{dwi.directions} direction{'s' * (dwi.directions > 1)}"
        yield f"DWI is of {count}, not a trace: its contrast depends on the course of fibres"


def _remarks_on_slices(volumes: Volumes, found: Sequence[Volumes]):
    """Slices lost at either end of a stack leave no gap; other series of the study tell."""
    shape, axes = volumes.grid.shape, volumes.grid.affine[:3, :3]
    for other in found:
        longer = other.grid.shape[:2] == shape[:2] and other.grid.shape[2] > shape[2]
        if longer and np.allclose(other.grid.affine[:3, :3], axes, atol=1e-3):
            yield (
                f"series {volumes.series} has {shape[2]} slices where series {other.series} has "
                f"{other.grid.shape[2]}: some may be missing"
            )
            return


def _pick_b0(found: Sequence[Volumes], dwi: Volumes) -> Volumes | None:
    """The lowest b-value that is nearly 0, of DWI's own series rather than of another."""
    fits = [
        v
        for v in found
        if v.kind == "weighted"
        and v.b_value < LOWEST_B
        and v.grid.agrees(dwi.grid)
        and _same_echo(v, dwi)
    ]
    key = lambda v: (v.origin != dwi.origin, v.b_value, abs(v.series - dwi.series), v.series)  # noqa: E731
    return min(fits, key=key, default=None)


def _same_echo(one: Volumes, other: Volumes) -> bool:
    times = [v.facts.get("EchoTime") for v in (one, other)]
    return None in times or math.isclose(*times, rel_tol=0.02)


def _distance(volumes: Volumes, dwi: Volumes | None) -> tuple:
    if dwi is None:
        return (False, 0, volumes.series)
    return (
        not volumes.grid.agrees(dwi.grid),
        abs(volumes.series - dwi.series),
        volumes.series,
    )


def _in_micro(volumes: Volumes) -> np.ndarray | None:
    """A vendor's map in 1e-6 mm2/s, untouched where it is; None where no unit fits its values."""
    adc = volumes.mean
    slices = volumes.grid.to_slices(adc.astype(np.float32))
    if not np.isfinite(slices).all():
        return None
    unit = unit_of_median(median_adc(slices, find_brain({"adc": slices})))
    if unit is None:
        return None
    return adc if unit == "1e-6" else adc.astype(np.float32) * np.float32(ADC_UNITS[unit] * 1e3)
