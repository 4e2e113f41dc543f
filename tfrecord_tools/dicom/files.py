"""The DICOM images of a tree: what their headers say of patient, study, series and kind."""

import dataclasses
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset

from tfrecord_tools.dicom.kinds import (
    Frame,
    find_frames,
    frame_types,
    words_of,
)
from tfrecord_tools.errors import InputError

#: Elements with names of people, each word of which identifies, and others that do as a whole.
NAMES = (
    *("PatientName", "OtherPatientNames", "PatientBirthName", "ReferringPhysicianName"),
    *("PerformingPhysicianName", "OperatorsName", "NameOfPhysiciansReadingStudy"),
    *("RequestingPhysician", "PhysiciansOfRecord"),
)
IDENTIFIERS = (
    *("PatientID", "OtherPatientIDs", "PatientBirthDate", "PatientAddress", "AccessionNumber"),
    *("InstitutionName", "InstitutionAddress", "InstitutionalDepartmentName", "StudyID"),
    *("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate"),
)

#: Classes of files: the index of an export, and MR images, classic and enhanced.
DICOMDIR = "1.2.840.10008.1.3.10"
MR_IMAGES = ("1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.4.1")

#: Transfer syntaxes whose voxels are stored as they are, so that their bytes can be counted; files
#: without a preamble name none.
_UNCOMPRESSED = ("", "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2")

#: Bytes before uncompressed voxels: their tag and length.
_TAG_BYTES = 8

_DEFLATED = "1.2.840.10008.1.2.1.99"

#: What follows the last compressed frame, and how far from the end of a file it may stand.
_END_OF_FRAMES, _TAIL_BYTES = b"\xfe\xff\xdd\xe0", 1 << 16


@dataclasses.dataclass(frozen=True)
class DicomFile:
    """One image file.

    Attributes:
        path: Where it is.
        patient: What tells patients apart; never written anywhere.
        study: (patient, study) it belongs to.
        series: UID of its series.
        instance: UID of the image.
        number: Number of the series.
        image_type: ImageType and the types of the frames.
        description: Words of the series and its protocol.
        enhanced: Whether it is of the kind that holds many images.
        frames: What it says of them; one of a classic file.
        position: Along the normal of the slices, in mm; None in an enhanced file or where unknown.
        truncated: Whether the file is shorter than its header says.
        private: Words that identify somebody.
        volumes: Of an enhanced file the positions of the frames of each volume that is meant; None
            for all that it holds.
    """

    path: Path
    patient: tuple[str, ...]
    study: tuple[str, ...]
    series: str
    instance: str
    number: int
    image_type: tuple[str, ...]
    description: str
    enhanced: bool
    frames: tuple[Frame, ...]
    position: float | None
    truncated: bool
    private: frozenset[str]
    volumes: tuple[tuple[int, ...], ...] | None = None

    @property
    def b_values(self) -> set[float]:
        """Those that are known of its frames."""
        return {frame.b_value for frame in self.frames if frame.b_value is not None}


@dataclasses.dataclass(frozen=True)
class DicomTree:
    """What is found in a folder.

    Attributes:
        files: The MR images, in the order of their paths, without copies.
        damaged: Positions, from 1 in the order of all paths, of DICOM files that cannot be read.
        other: How many DICOM files are no MR image.
        foreign: How many files are not DICOM.
        all: How many files there are.
    """

    files: tuple[DicomFile, ...]
    damaged: tuple[int, ...]
    other: int
    foreign: int
    all: int


def find_dicom(source: Path, on_file: Callable[[int, int], None] | None = None) -> DicomTree:
    """Read the header of every file below a folder, or of one file.

    Messages name files by their position in the order of paths, since paths may name patients.

    Raises:
        InputError: There is no such folder, or something in it may not be read.
    """
    paths = _walk(source)
    files, damaged, other, foreign = {}, [], 0, 0
    for number, path in enumerate(paths, 1):
        try:
            found = _read(path)
        except OSError as error:
            if error.errno is not None:
                raise InputError(
                    f"file {number} of {len(paths)} in {source}, in the order of their paths, "
                    f"cannot be read ({error.strerror}); check its permissions"
                ) from None
            found = "damaged"
        except Exception:  # pydicom raises many kinds over a damaged file.
            found = "damaged"
        if isinstance(found, DicomFile):
            key = (found.study, found.series, found.instance or number)
            if key not in files or (files[key].truncated and not found.truncated):
                files[key] = found
        elif found == "damaged":
            damaged.append(number)
        elif found == "other":
            other += 1
        else:
            foreign += 1
        if on_file:
            on_file(number, len(paths))
    return DicomTree(tuple(files.values()), tuple(damaged), other, foreign, len(paths))


def _read(path: Path) -> DicomFile | str:
    """An MR image, or else "foreign", "other" DICOM, or "damaged"."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # They repeat values, which may name a patient.
        header, size = _read_header(path)
        if header is None:
            return "foreign"
        if _is_cut(header):
            return "damaged"
        if header.get("Modality") != "MR" or "Rows" not in header:
            return "other"
        return _describe(header, path, size)


def _walk(source: Path) -> list[Path]:
    if not source.exists():
        raise InputError(f"{source} does not exist; give a folder of DICOM files")
    if source.is_file():
        return [source]

    def refuse(error):
        raise InputError(
            f"a folder in {source} cannot be read ({error.strerror}); check its permissions"
        ) from None

    paths = []
    for home, folders, names in os.walk(source, onerror=refuse):
        folders.sort()
        paths += [Path(home, name) for name in names]
    return sorted(path for path in paths if path.is_file())


def is_dicom(path: Path) -> bool:
    """Whether a file begins as DICOM does; no file, or one that cannot be read, does not."""
    try:
        with open(path, "rb") as file:
            return _begins_as_dicom(file.read(132))[0]
    except OSError:
        return False


def _begins_as_dicom(start: bytes) -> tuple[bool, bool]:
    """Whether the first 132 bytes of a file are those of DICOM, and whether without a preamble."""
    # Old files begin with the first element of group 8, without a preamble.
    bare = start[:2] == b"\x08\x00" and start[3:4] == b"\x00"
    return bare or start[128:] == b"DICM", bare


def _read_header(path: Path) -> tuple[Dataset | None, int]:
    """The header without the voxels, and the bytes after it; None where this is not DICOM."""
    with open(path, "rb") as file:
        begins, bare = _begins_as_dicom(file.read(132))
        if not begins:
            return None, 0
        file.seek(0)
        header = pydicom.dcmread(file, stop_before_pixels=True, force=bare)
        return header, path.stat().st_size - file.tell()


def _is_cut(header: Dataset) -> bool:
    """Whether a header ends before it says what the file is."""
    if getattr(header, "file_meta", {}).get("MediaStorageSOPClassUID") == DICOMDIR:
        return False
    kind = header.get("SOPClassUID")
    return not kind or (kind in MR_IMAGES and not {"Modality", "Rows"} <= set(header.dir()))


def _describe(header: Dataset, path: Path, size: int) -> DicomFile:
    enhanced = "PerFrameFunctionalGroupsSequence" in header
    name = str(header.get("PatientName", "")).replace("^", " ").casefold().split()
    study = str(header.get("StudyInstanceUID", ""))
    identity = str(header.get("PatientID", "")).strip()
    # A name is spelt in many ways: with an id it tells nothing more, and could only part studies
    # of one patient, who would then stand in two splits.
    if identity:
        patient = ("id", str(header.get("IssuerOfPatientID", "")).strip(), identity)
    else:
        patient = ("name", " ".join(name) or study)
    return DicomFile(
        path,
        patient=patient,
        study=(*patient, study),
        series=str(header.get("SeriesInstanceUID", "")),
        instance=str(header.get("SOPInstanceUID", "")),
        number=int(header.get("SeriesNumber") or 0),
        image_type=(*words_of(header.get("ImageType")), *frame_types(header)),
        description=f"{header.get('SeriesDescription', '')} {header.get('ProtocolName', '')}",
        enhanced=enhanced,
        frames=tuple(find_frames(header)),
        position=None if enhanced else _position(header),
        truncated=_is_truncated(header, path, size),
        private=frozenset(_private_words(header)),
    )


def _position(header: Dataset) -> float | None:
    position, axes = header.get("ImagePositionPatient"), header.get("ImageOrientationPatient")
    # A mosaic holds all slices of a volume.
    if not position or not axes or "MOSAIC" in words_of(header.get("ImageType")):
        return None
    axes = np.array(axes, float)
    return float(np.cross(axes[:3], axes[3:]) @ np.array(position, float))


def _is_truncated(header: Dataset, path: Path, size: int) -> bool:
    """Whether `size` bytes are too few for the voxels, or end before compressed ones do."""
    syntax = str(getattr(header, "file_meta", {}).get("TransferSyntaxUID", ""))
    if syntax == _DEFLATED:
        return False  # It could not have been read.
    if syntax not in _UNCOMPRESSED:
        with open(path, "rb") as file:
            file.seek(-min(size, _TAIL_BYTES), os.SEEK_END)
            return _END_OF_FRAMES not in file.read()
    sizes = (header.get(key) for key in ("Rows", "Columns", "BitsAllocated"))
    rows, columns, bits = (int(size or 0) for size in sizes)
    count = int(header.get("NumberOfFrames") or 1) * int(header.get("SamplesPerPixel") or 1)
    return size < _TAG_BYTES + rows * columns * count * bits // 8


def _private_words(header: Dataset) -> Iterator[str]:
    for key in NAMES:
        words = str(header.get(key) or "").replace("^", " ").replace(",", " ").split()
        yield from (word.casefold() for word in words if len(word) > 2)
    for key in IDENTIFIERS:
        text = str(header.get(key) or "").strip()
        if len(text) > 2:
            yield text.casefold()
