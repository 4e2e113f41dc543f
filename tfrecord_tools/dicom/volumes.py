"""DICOM series -> volumes, through the program dcm2niix."""

import dataclasses
import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import nibabel
import numpy as np

from tfrecord_tools.dicom.files import DicomFile
from tfrecord_tools.dicom.program import ConversionFailed, run_on
from tfrecord_tools.dicom.series import Series
from tfrecord_tools.diffusion import LOWEST_B, SHELL_WIDTH, geometric_mean, read_bvalues
from tfrecord_tools.grid import Grid

#: What is kept of the description that dcm2niix writes beside an image; everything else, where
#: institutions and comments stand even when it is told to leave names out, is not.
KEPT_FACTS = (
    *("Manufacturer", "ManufacturersModelName", "SoftwareVersions", "MagneticFieldStrength"),
    *("EchoTime", "RepetitionTime", "ConversionSoftware", "ConversionSoftwareVersion"),
)


@dataclasses.dataclass(frozen=True, eq=False)
class Volumes:
    """Volumes of one series at one b-value, or an ADC map.

    Attributes:
        kind: "adc" or "weighted".
        series: Number of the series.
        b_value: In s/mm2; None of an ADC map.
        isotropic: Whether each is a mean over directions.
        stack: `(x, y, z, volumes)` in file order, with the values that dcm2niix gives.
        grid: Their grid.
        facts: What is kept of the description, see `KEPT_FACTS`.
        files: The files they come from.
    """

    kind: str
    series: int
    b_value: float | None
    isotropic: bool
    stack: np.ndarray
    grid: Grid
    facts: Mapping[str, object]
    files: tuple[DicomFile, ...]

    @property
    def directions(self) -> int:
        """How many volumes there are."""
        return self.stack.shape[3]

    @property
    def origin(self) -> tuple[str, bool]:
        """The series, classic or enhanced, that they come from."""
        return self.files[0].series, self.files[0].enhanced

    @functools.cached_property
    def mean(self) -> np.ndarray:
        """The geometric mean over the volumes, float32; a single one as it is stored."""
        if self.directions == 1:
            return self.stack[..., 0]
        mean = geometric_mean(self.stack[..., index] for index in range(self.directions))
        return mean.astype(np.float32)


def convert_series(
    series: Series, folder: Path, *, program: str, timeout_s: float
) -> list[Volumes]:
    """Convert one series, and sort its volumes by b-value.

    Args:
        series: What to convert.
        folder: Empty folder for what lies between; nothing in it is needed afterwards but while
            the volumes are used.
        program: See `find_program`.
        timeout_s: Seconds after which dcm2niix is stopped.

    Raises:
        ConversionFailed: No volume comes out.
    """
    found = []
    for path in run_on(series, folder, program=program, timeout_s=timeout_s):
        try:
            found += _read(series, path)
        except (ValueError, OSError, nibabel.filebasedimages.ImageFileError):
            raise ConversionFailed("what dcm2niix made of it cannot be read") from None
    if not found:
        raise ConversionFailed("dcm2niix made no volume of it")
    return _together(found) if series.is_enhanced else found


def _together(found: Sequence[Volumes]) -> list[Volumes]:
    """Volumes of one weighting in one stack, though dcm2niix wrote each to a file of its own."""
    stacks: list[list[Volumes]] = []
    for volumes in found:
        for stack in stacks:
            if _alike(stack[0], volumes):
                stack.append(volumes)
                break
        else:
            stacks.append([volumes])
    return [
        dataclasses.replace(stack[0], stack=np.concatenate([v.stack for v in stack], axis=3))
        for stack in stacks
    ]


def _alike(one: Volumes, other: Volumes) -> bool:
    return (
        one.kind == other.kind == "weighted"
        and (one.b_value, one.isotropic) == (other.b_value, other.isotropic)
        and one.facts.get("EchoTime") == other.facts.get("EchoTime")
        and one.grid.agrees(other.grid)
    )


def _read(series: Series, path: Path) -> Iterator[Volumes]:
    """The volumes of one image that dcm2niix wrote; none of a map in colour or of phases.

    Of some diffusion series dcm2niix writes a second image, called `_ADC`, which may hold anything
    that has no direction, b = 0 and trace included: it is no ADC map and is not looked at.
    """
    if series.kind != "adc" and path.stem.endswith("_ADC"):
        return
    facts = json.loads(path.with_suffix(".json").read_text(encoding="utf-8", errors="replace"))
    image = nibabel.load(path)
    stack = np.asanyarray(image.dataobj)
    if stack.ndim not in (3, 4) or stack.dtype.kind not in "iuf" or min(stack.shape) < 1:
        return
    stack = stack.reshape(*stack.shape[:3], -1)
    if stack.shape[2] < 2 or "PHASE" in (facts.get("ImageType") or ()):
        return
    if series.kind == "adc":
        parts = [("adc", None, True, [0])]
    else:
        parts = [("weighted", *shell) for shell in _shells(series, path, stack.shape[3])]
    for kind, b_value, isotropic, indices in parts:
        yield Volumes(
            kind,
            series.number,
            b_value,
            isotropic,
            stack[..., indices],
            Grid(stack.shape[:3], np.asarray(image.affine, np.float64)),
            {key: facts[key] for key in KEPT_FACTS if key in facts},
            series.files,
        )


def _shells(series: Series, path: Path, count: int) -> Iterator[tuple[float, bool, list[int]]]:
    """(b-value, whether isotropic, indices) of the volumes of an image of `count` volumes.

    Raises:
        ConversionFailed: Nothing says the b-values.
    """
    said = {frame.b_value for file in series.files for frame in file.frames}
    b_value = said.pop() if len(said) == 1 else None
    written = read_bvalues(path)
    if b_value:
        values = np.full(count, b_value)
    elif written is not None and len(written) == count:
        values = written
    elif b_value is not None:
        values = np.zeros(count)
    else:
        raise ConversionFailed("nothing says its b-values")
    directionless = _without_direction(path, count) & (values >= LOWEST_B)
    mixed = directionless.any() and not directionless[values >= LOWEST_B].all()
    left = list(range(count))
    while left:
        shell = [i for i in left if abs(values[i] - values[left[0]]) <= SHELL_WIDTH]
        left = [i for i in left if i not in shell]
        b_value = float(np.mean(values[shell]))
        means = [i for i in shell if directionless[i]] if mixed else []
        if means:
            yield b_value, True, means
            shell = [i for i in shell if i not in means]
        if shell:
            yield b_value, series.isotropic, shell


def _without_direction(path: Path, count: int) -> np.ndarray:
    """Which volumes have the direction (0, 0, 0) in the file that dcm2niix writes."""
    bvec = path.with_suffix(".bvec")
    if not bvec.is_file():
        return np.zeros(count, bool)
    directions = np.loadtxt(bvec, ndmin=2)
    if directions.shape != (3, count):
        return np.zeros(count, bool)
    return ~directions.any(axis=0)
