"""`StudyFiles` -> `Study`: volumes on one grid, ADC with a known unit, boolean masks."""

import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Mapping
from pathlib import Path

import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.imageglobals import LoggingOutputSuppressor

from tfrecord_tools.errors import InputError
from tfrecord_tools.findings import BadFile
from tfrecord_tools.grid import Grid, resample
from tfrecord_tools.nifti import read_volume
from tfrecord_tools.study_files import StudyFiles

#: Factor from each unit of ADC to 1e-3 mm2/s.
ADC_UNITS = {"1e-3": 1.0, "mm2/s": 1e3, "1e-6": 1e-3}

#: Medians of ADC over the brain, in 1e-3 mm2/s, that are believed. They are 0.85 to 1.1 in stroke
#: studies, about 0.55 where most of the brain is infarcted, and up to 1.6 in infants. Wider limits
#: would take an image that was scaled to [0, 1] for an ADC map in 1e-3 mm2/s.
PLAUSIBLE_MEDIAN = (0.4, 2.5)


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


@dataclasses.dataclass(frozen=True, eq=False)
class Volume:
    """A file as it is on disk: float32 voxels in file order, and their grid."""

    path: Path
    voxels: np.ndarray
    grid: Grid

    @functools.cached_property
    def header(self) -> nibabel.Nifti1Header | None:
        """The file's header; None where it is not NIfTI."""
        try:
            with LoggingOutputSuppressor():  # Whoever asks says what is wrong with it.
                header = nibabel.load(self.path).header
        except ImageFileError:
            return None
        return header if isinstance(header, nibabel.Nifti1Header) else None

    @functools.cached_property
    def range(self) -> tuple[float, float]:
        """Smallest and largest voxel; NaN where one is."""
        return float(self.voxels.min()), float(self.voxels.max())


@dataclasses.dataclass(frozen=True, eq=False)
class Reading:
    """What the files of a study hold, so far as they can be used, and why they make no study.

    Attributes:
        files: The files that were read.
        volumes: By modality, the image files that can be used.
        mask_volumes: By (rater, modality), the mask files that can be used.
        images: See `Study`.
        masks: See `Study`.
        grid: See `Study`; None where no image can be used.
        adc_scale: See `Study`; None where the unit is unknown.
        adc_grid: See `Study`.
        brain: About the brain, see `find_brain`; None where no image can be used.
        median_adc: Over the brain, in the file's unit; None where ADC cannot be used.
        faults: One for each reason why there is no study.
    """

    files: StudyFiles
    volumes: Mapping[str, Volume]
    mask_volumes: Mapping[tuple[str, str], Volume]
    images: Mapping[str, np.ndarray]
    masks: Mapping[tuple[str, str], np.ndarray]
    grid: Grid | None
    adc_scale: float | None
    adc_grid: Grid | None
    brain: np.ndarray | None
    median_adc: float | None
    faults: tuple[BadFile, ...]

    @functools.cached_property
    def brightness(self) -> float:
        """Mean over the brain of the image that `brain` was found on."""
        main = self.images.get("dwi", self.images.get("adc"))
        return float(main[self.brain].mean()) if self.brain.any() else 0.0

    def study(self) -> Study:
        """The study, in a reading without faults."""
        return Study(
            study=self.files.study,
            patient=self.files.patient,
            group=self.files.group or _group_of(self.masks),
            images=self.images,
            masks=self.masks,
            grid=self.grid,
            adc_scale=1.0 if self.adc_scale is None else self.adc_scale,
            adc_grid=self.adc_grid,
        )


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
    reading = read_files(files, adc_unit)
    if reading.faults:
        raise reading.faults[0]
    return reading.study()


def read_files(files: StudyFiles, adc_unit: str = "auto") -> Reading:
    """Read each file of a study once, collecting every reason why they make no study.

    Args:
        files: Where its images and masks are.
        adc_unit: See `read_study`.

    Raises:
        InputError: The unit is unknown.
    """
    check_adc_unit(adc_unit)
    faults, volumes, images, masks = [], {}, {}, {}
    for modality, path in files.images.items():
        with _collecting(faults):
            volumes[modality] = _read_image(path)
    opened = {}  # One file may be the mask of both modalities.
    for path in dict.fromkeys(files.masks.values()):
        with _collecting(faults):
            opened[path] = _read_mask(path)
    mask_volumes = {key: opened[path] for key, path in files.masks.items() if path in opened}
    main = volumes.get("dwi", volumes.get("adc"))
    scale = adc_grid = median = None
    for modality, volume in volumes.items():
        with _collecting(faults):
            images[modality] = _image_on(main, volume)
    brain = find_brain(images) if images else None
    if "adc" in images:
        median = median_adc(images["adc"], brain)
        adc_grid = None if volumes["adc"].grid.agrees(main.grid) else volumes["adc"].grid
        with _collecting(faults):
            scale = _adc_scale(median, adc_unit, volumes["adc"].path)
    for (rater, modality), mask in mask_volumes.items():
        # Whether a mask fits an image that cannot be read is not known.
        image = volumes.get(modality, main if modality not in files.images else None)
        if image:
            with _collecting(faults):
                masks[rater, modality] = _mask_on(main.grid, mask, modality, image)
    return Reading(
        *(files, volumes, mask_volumes, images, masks, main.grid if main else None),
        *(scale, adc_grid, brain, median, tuple(faults)),
    )


@contextlib.contextmanager
def _collecting(faults: list[BadFile]):
    try:
        yield
    except BadFile as fault:
        if all((fault.code, fault.file) != (other.code, other.file) for other in faults):
            faults.append(fault)


def _read_image(path: Path) -> Volume:
    volume = _read(path)
    low, high = volume.range
    if not np.isfinite((low, high)).all():
        bad = int(volume.voxels.size - np.isfinite(volume.voxels).sum())
        voxels = "voxel that is" if bad == 1 else "voxels that are"
        raise BadFile(
            *("not-finite", path, f"has {bad} {voxels} NaN or infinite"),
            "replace them (with 0 outside the head) and try again",
        )
    if low == high:
        raise BadFile(
            *("constant", path, f"is constant ({low:g} everywhere) and shows nothing"),
            "export the image again or leave the study out",
        )
    return volume


def _read_mask(path: Path) -> Volume:
    mask = _read(path)
    if not np.isfinite(mask.range).all():
        message = "has NaN or infinite voxels"
        raise BadFile("not-finite", path, message, "write a mask that holds 0 and 1")
    return mask


def _read(path: Path) -> Volume:
    try:
        return Volume(path, *read_volume(path))
    except InputError as error:
        text = str(error)
        if not text.startswith(f"{path} "):  # It speaks of a file beside this one.
            text = f"{path} cannot be used: {text}"
        message, _, remedy = text.removeprefix(f"{path} ").rpartition("; ")
        code = "unreadable" if path.is_file() else "missing-file"
        if code == "unreadable" and _declares_4d(path):
            code = "four-dimensional"
        raise BadFile(code, path, message, remedy) from error


def _declares_4d(path: Path) -> bool:
    """Whether the header of a file that cannot be used declares several volumes."""
    try:
        return len([n for n in nibabel.load(path).shape[3:] if n > 1]) > 0
    except Exception:  # No header: what is wrong with the file has been said.
        return False


def _image_on(main: Volume, volume: Volume) -> np.ndarray:
    """An image as slices on the grid of the study's main one."""
    if volume.grid.agrees(main.grid):
        return main.grid.to_slices(volume.voxels)
    image = resample(volume.voxels, volume.grid, main.grid, order=1)
    if not image.any():
        raise BadFile(
            *("no-overlap", volume.path, f"shows nothing where {main.path} lies"),
            "check that both are of one study and that their headers are right",
        )
    return main.grid.to_slices(image)


def _mask_on(grid: Grid, mask: Volume, modality: str, image: Volume) -> np.ndarray:
    """A mask on the study's grid; it must lie on that grid or on its own image's."""
    # A mask stored with a scale slope reads as 0.99999999977, which `== 1` would lose.
    lesion = mask.voxels > 0.5
    if mask.grid.agrees(grid):
        return grid.to_slices(lesion)
    if not mask.grid.covers(grid) and not mask.grid.covers(image.grid):
        raise BadFile(
            *("mask-grid", mask.path),
            f"lies on another grid than its {modality} image "
            f"({describe_difference(mask.grid, image.grid)})",
            "draw or resample it on that image",
        )
    return grid.to_slices(resample(lesion, mask.grid, grid, order=0) > 0.5)


def describe_difference(grid: Grid, other: Grid) -> str:
    """In words how one grid differs from another: in shape, else in place."""
    if grid.canonical.shape != other.canonical.shape:
        return f"shape {grid.shape} against {other.shape}"
    corners = np.array([(*c, 1) for c in itertools.product(*((0, n - 1) for n in grid.shape))])
    shift = np.abs(corners @ (grid.canonical.affine - other.canonical.affine).T).max()
    return f"the same shape, but up to {shift:.3g} mm away"


def _group_of(masks: Mapping[tuple[str, str], np.ndarray]) -> str:
    if not masks:
        return "unknown"
    return "stroke" if any(mask.any() for mask in masks.values()) else "control"


def find_brain(images: Mapping[str, np.ndarray]) -> np.ndarray:
    """About the brain, for statistics over it: bool of the images' shape.

    Where DWI is brighter than its mean; in a study without DWI, where ADC is not 0.
    """
    if "dwi" in images:
        return images["dwi"] > images["dwi"].mean()
    return images["adc"] != 0


def median_adc(adc: np.ndarray, brain: np.ndarray) -> float:
    """Median over the brain in the image's unit, 0 where nothing is measured.

    Negative voxels count: half of the brain of a z-scored map is negative, and its median of
    about 0 fits no unit. Voxels of exactly 0 were masked out by the scanner.
    """
    inside = adc[brain]
    inside = inside[inside != 0]
    return float(np.median(inside)) if inside.size else 0.0


def _adc_scale(median: float, unit: str, path: Path) -> float:
    """Factor from the file's unit to 1e-3 mm2/s, by the brain's median where nobody says it."""
    known = unit_of_median(median) if unit == "auto" else unit
    if known is None:
        raise BadFile(
            *("adc-unit", path),
            f"has a median ADC of {median:g} over the brain, which fits no unit",
            f"say which it is with --adc-unit ({', '.join(ADC_UNITS)})",
        )
    return ADC_UNITS[known]


def unit_of_median(median: float) -> str | None:
    """The unit in which the brain's median ADC is plausible; None for none."""
    low, high = PLAUSIBLE_MEDIAN
    return next((u for u, factor in ADC_UNITS.items() if low <= median * factor <= high), None)
