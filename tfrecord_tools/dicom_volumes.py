"""DICOM series -> volumes, through the program dcm2niix."""

import dataclasses
import functools
import json
import shutil
import subprocess
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import nibabel
import numpy as np
import pydicom
from pydicom import encaps

from tfrecord_tools.dicom_files import IDENTIFIERS, NAMES, DicomFile
from tfrecord_tools.dicom_series import Series
from tfrecord_tools.diffusion import LOWEST_B, SHELL_WIDTH, geometric_mean, read_bvalues
from tfrecord_tools.errors import InputError
from tfrecord_tools.grid import Grid

#: What is kept of the description that dcm2niix writes beside an image; everything else, where
#: institutions and comments stand even when it is told to leave names out, is not.
KEPT_FACTS = (
    *("Manufacturer", "ManufacturersModelName", "SoftwareVersions", "MagneticFieldStrength"),
    *("EchoTime", "RepetitionTime", "ConversionSoftware", "ConversionSoftwareVersion"),
)

#: Options of dcm2niix: text beside the image without names and dates, no comment in the image, no
#: settings from the user's home, uncompressed, voxels as stored.
_OPTIONS = (
    *("-b", "y", "-ba", "y", "-c", "", "-g", "i", "-z", "n", "-l", "o", "-f", "image", "-w", "2"),
)


class ConversionFailed(Exception):
    """A series of which dcm2niix makes no volume; the text says why, after "series N: "."""


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


def find_program() -> str:
    """The dcm2niix program: that of the Python package, else one on the search path.

    Raises:
        InputError: There is none.
    """
    try:
        from dcm2niix import bin as program
    except ImportError:
        program = shutil.which("dcm2niix")
    if not program or not Path(program).is_file():
        raise InputError("the program dcm2niix is missing; install it with: pip install dcm2niix")
    return str(program)


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
    end = time.monotonic() + timeout_s
    try:
        found = [
            volumes
            for number, files in enumerate(_inputs(series, folder))
            for path in _run(program, series, files, folder / f"out{number}", end)
            for volumes in _read(series, path)
        ]
    except subprocess.TimeoutExpired:
        raise ConversionFailed(f"dcm2niix did not end within {timeout_s:g} s") from None
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


def _inputs(series: Series, folder: Path) -> Iterator[Path]:
    """Folders to be converted one by one: all files of a series, or a volume of an enhanced one.

    Files in them are links with neutral names: their own may be odd, or those of people.
    """
    whole = folder / "in"
    whole.mkdir()
    for index, file in enumerate(series.files):
        if file.volumes is None:
            _link(file.path, whole / f"{index:06d}.dcm")
    if any(whole.iterdir()):
        yield whole
    for index, file in enumerate(series.files):
        if file.volumes is not None:
            yield from _copy_volumes(file, folder / f"in{index}")


def _link(path: Path, link: Path) -> None:
    try:
        link.symlink_to(path.resolve())
    except OSError:  # Some file systems know no links.
        shutil.copyfile(path, link)


def _copy_volumes(file: DicomFile, folder: Path) -> list[Path]:
    """Write the volumes that are meant of an enhanced file, each into a folder of its own."""
    homes = [folder / str(number) for number in range(len(file.volumes))]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # They repeat values, which may name a patient.
            image = pydicom.dcmread(file.path)
            count, groups = int(image.NumberOfFrames), image.PerFrameFunctionalGroupsSequence
            packed = image.file_meta.TransferSyntaxUID.is_encapsulated
            if packed:
                frames = list(encaps.generate_frames(image.PixelData, number_of_frames=count))
            else:
                size = len(image.PixelData) // count
                frames = [image.PixelData[i * size : (i + 1) * size] for i in range(count)]
            # The copy goes in a moment; a kill could leave it, so it names nobody.
            for name in (*NAMES, *IDENTIFIERS, "ExtendedOffsetTable", "ExtendedOffsetTableLengths"):
                if name in image:
                    delattr(image, name)
            for home, volume in zip(homes, file.volumes, strict=True):
                chosen = [frames[index] for index in volume]
                image.PixelData = encaps.encapsulate(chosen) if packed else b"".join(chosen)
                image.PerFrameFunctionalGroupsSequence = [groups[index] for index in volume]
                image.NumberOfFrames = len(volume)
                home.mkdir(parents=True)
                image.save_as(home / "image.dcm")
    except OSError:
        raise
    except Exception:  # pydicom raises many kinds over a damaged file.
        raise ConversionFailed("its frames cannot be told apart") from None
    return homes


def _run(program: str, series: Series, files: Path, out: Path, end: float) -> list[Path]:
    """Run dcm2niix on a folder, until `end` at most; the images it made."""
    out.mkdir()
    # A map of Philips has its unit in the values that the console shows.
    scaling = ("-p", "n") if series.kind == "adc" else ()
    command = [program, *_OPTIONS, *scaling, "-o", str(out), str(files)]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=max(0.0, end - time.monotonic()),
        )
    except OSError as error:
        raise InputError(
            f"{program} cannot be run ({error.strerror}); install it with: pip install dcm2niix"
        ) from error
    # What it prints may name the patient.
    if done.returncode:
        raise ConversionFailed(f"dcm2niix failed with status {done.returncode}")
    return sorted(out.glob("*.nii"))


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
