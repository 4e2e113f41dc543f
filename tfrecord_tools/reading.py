"""`Reading`: what the files of a study hold, and every reason why they make no study."""

import contextlib
import dataclasses
import functools
import itertools
import logging
from collections.abc import Mapping
from pathlib import Path

import nibabel
import numpy as np
from nibabel import imageglobals
from nibabel.filebasedimages import ImageFileError
from nibabel.openers import ImageOpener
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from tfrecord_tools.adc_unit import (
    ADC_UNITS,
    check_adc_unit,
    find_brain,
    median_adc,
    unit_of_median,
)
from tfrecord_tools.errors import InputError
from tfrecord_tools.findings import BadFile
from tfrecord_tools.grid import Grid, resample
from tfrecord_tools.nifti import read_volume
from tfrecord_tools.study_files import StudyFiles


@dataclasses.dataclass(frozen=True, eq=False)
class Volume:
    """A file as it is on disk: float32 voxels in file order, and their grid."""

    path: Path
    voxels: np.ndarray
    grid: Grid

    @functools.cached_property
    def header(self) -> nibabel.Nifti1Header | None:
        """The file's header; None where it is not NIfTI."""
        with _silent_nibabel():
            try:
                with ImageOpener(self.path) as file:  # Three times as fast as `nibabel.load`.
                    return nibabel.Nifti1Header.from_fileobj(file)
            except (HeaderDataError, WrapStructError):
                return _header_of_other_format(self.path)

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
    def brain_size(self) -> int:
        """Voxels of the brain, 1 at least."""
        return max(1, np.count_nonzero(self.brain))

    @functools.cached_property
    def brightness(self) -> float:
        """Mean over the brain of the image that `brain` was found on."""
        main = self.images.get("dwi", self.images.get("adc"))[::4]  # Enough of it.
        brain = self.brain[::4]
        return float(main[brain].mean(dtype=np.float64)) if brain.any() else 0.0


def read_files(files: StudyFiles, adc_unit: str = "auto") -> Reading:
    """Read each file of a study once, collecting every reason why they make no study.

    Args:
        files: Where its images and masks are.
        adc_unit: See `check_adc_unit`; "auto" infers it from the brain's median.

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
            images[modality] = image_on(main, volume)
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


def _header_of_other_format(path: Path) -> nibabel.Nifti1Header | None:
    try:
        header = nibabel.load(path).header
    except ImageFileError:
        return None
    return header if isinstance(header, nibabel.Nifti1Header) else None


@contextlib.contextmanager
def _silent_nibabel():
    """Without its log of what it mends in a header; what matters of that is a finding."""
    level = imageglobals.logger.level
    imageglobals.logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        imageglobals.logger.setLevel(level)


def _read_image(path: Path) -> Volume:
    volume = _read(path)
    check_image(volume)
    return volume


def check_image(volume: Volume) -> None:
    """Refuse an image that shows nothing or holds what is no number.

    Raises:
        BadFile: It does.
    """
    path = volume.path
    low, high = volume.range
    if not np.isfinite((low, high)).all():
        bad = int(volume.voxels.size - np.isfinite(volume.voxels).sum())
        raise BadFile(
            *("not-finite", path, f"has {bad} voxels that are NaN or infinite"),
            "replace them (with 0 outside the head) and try again",
        )
    if low == high:
        raise BadFile(
            *("constant", path, f"is constant ({low:g} everywhere) and shows nothing"),
            "export the image again or leave the study out",
        )


def _read_mask(path: Path) -> Volume:
    mask = _read(path)
    if not np.isfinite(mask.range).all():
        message = "has NaN or infinite voxels"
        raise BadFile("not-finite", path, message, "write a mask that holds 0 and 1")
    return mask


def _read(path: Path) -> Volume:
    try:
        with _silent_nibabel():
            return Volume(path, *read_volume(path))
    except InputError as error:
        text = str(error)
        if not text.startswith(f"{path} "):  # It speaks of a file beside this one.
            text = f"{path} cannot be used: {text}"
        message, found, remedy = text.removeprefix(f"{path} ").rpartition("; ")
        if not found:
            message, remedy = remedy, "restore or convert the file again"
        code = "unreadable" if path.is_file() else "missing-file"
        if code == "unreadable" and _declares_4d(path):
            code = "four-dimensional"
        raise BadFile(code, path, message, remedy) from error


def _declares_4d(path: Path) -> bool:
    """Whether the header of a file that cannot be used declares several volumes."""
    try:
        with _silent_nibabel():
            return any(count > 1 for count in nibabel.load(path).shape[3:])
    except Exception:  # No header: what is wrong with the file has been said.
        return False


def image_on(main: Volume, volume: Volume) -> np.ndarray:
    """An image as slices on the grid of the study's main one.

    Raises:
        BadFile: Both have no place in common.
    """
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
