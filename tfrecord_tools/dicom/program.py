"""The program dcm2niix, and what is given to it."""

import shutil
import subprocess
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pydicom
from pydicom import encaps

from tfrecord_tools.dicom.files import IDENTIFIERS, NAMES, DicomFile
from tfrecord_tools.dicom.series import Series
from tfrecord_tools.errors import InputError

#: Options of dcm2niix: text beside the image without names and dates, no comment in the image, no
#: settings from the user's home, uncompressed, voxels as stored.
_OPTIONS = (
    *("-b", "y", "-ba", "y", "-c", "", "-g", "i", "-z", "n", "-l", "o", "-f", "image", "-w", "2"),
)


class ConversionFailed(Exception):
    """A series of which dcm2niix makes no volume; the text says why, after "series N: "."""


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


def run_on(series: Series, folder: Path, *, program: str, timeout_s: float) -> Iterator[Path]:
    """The images that dcm2niix makes of a series, each with JSON and b-values beside it.

    Args:
        series: What to convert.
        folder: Empty folder for what lies between, and for the images.
        program: See `find_program`.
        timeout_s: Seconds that it may take for the whole series.

    Raises:
        ConversionFailed: It fails, or takes longer.
    """
    end = time.monotonic() + timeout_s
    try:
        for number, files in enumerate(_inputs(series, folder)):
            left = max(0.0, end - time.monotonic())
            yield from _run(program, series, files, folder / f"out{number}", left)
    except subprocess.TimeoutExpired:
        raise ConversionFailed(f"dcm2niix did not end within {timeout_s:g} s") from None


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


def _run(program: str, series: Series, files: Path, out: Path, timeout_s: float) -> list[Path]:
    out.mkdir()
    # A map of Philips has its unit in the values that the console shows.
    scaling = ("-p", "n") if series.kind == "adc" else ()
    command = [program, *_OPTIONS, *scaling, "-o", str(out), str(files)]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout_s,
        )
    except OSError as error:
        raise InputError(
            f"{program} cannot be run ({error.strerror}); install it with: pip install dcm2niix"
        ) from error
    # What it prints may name the patient.
    if done.returncode:
        raise ConversionFailed(f"dcm2niix failed with status {done.returncode}")
    return sorted(out.glob("*.nii"))
