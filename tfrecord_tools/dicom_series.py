"""The series of a DICOM study that may be ADC or DWI."""

import dataclasses
import hashlib
import itertools
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pydicom

from tfrecord_tools.dicom_files import DicomFile
from tfrecord_tools.dicom_kinds import find_kind, is_trace


@dataclasses.dataclass(frozen=True)
class Series:
    """The files of one series that are of one kind.

    Attributes:
        kind: "adc" or "weighted".
        files: At least one.
        slices: How many slices a volume of the whole series has; 0 where unknown.
    """

    kind: str
    files: tuple[DicomFile, ...]
    slices: int = 0

    @property
    def number(self) -> int:
        """Number of the series."""
        return self.files[0].number

    @property
    def is_enhanced(self) -> bool:
        """Whether files hold several frames."""
        return any(len(file.b_values) > 1 for file in self.files)

    @property
    def isotropic(self) -> bool:
        """Whether its weighted images are means over directions."""
        return all(
            file.isotropic or is_trace(file.image_type, file.description) for file in self.files
        )


def group_series(files: Sequence[DicomFile]) -> list[Series]:
    """The series of one study that may be ADC or DWI, in the order of their numbers.

    Of a classic series the b = 0 images, means over directions and single directions become
    series of their own, and so do maps among them; where only some images say their b-value, the
    others are b = 0. Enhanced files of a series are kept apart from its classic ones.
    """
    found = []

    def key(file):
        return file.number, file.series, len(file.b_values) > 1

    by_series = itertools.groupby(sorted(files, key=key), key=key)
    for _, members in by_series:
        members = list(members)
        known = sorted({b for file in members for b in file.b_values if b is not None})
        parts: dict[tuple, list[DicomFile]] = {}
        for file in members:
            kind = find_kind(file.image_type, file.description, known)
            if kind == "other":
                continue
            if kind == "weighted" and len(file.b_values) == 1 and known:
                file = dataclasses.replace(file, b_values=(file.b_values[0] or 0.0,))
                parts.setdefault((kind, file.isotropic, file.b_values[0]), []).append(file)
            else:
                parts.setdefault((kind, file.isotropic, 0.0), []).append(file)
        slices = len({round(f.position, 2) for f in members if f.position is not None})
        found += [Series(kind, tuple(part), slices) for (kind, *_), part in parts.items()]
    return found


def find_flaw(series: Series) -> str:
    """Why a series cannot be converted, in words; "" where nothing speaks against it."""
    truncated = sum(file.truncated for file in series.files)
    if truncated:
        return f"{truncated} of {len(series.files)} files are truncated"
    positions = [file.position for file in series.files]
    if series.is_enhanced or None in positions:
        return ""
    places, counts = np.unique(np.round(positions, 2), return_counts=True)
    steps = np.diff(places)
    if len(places) < 2:
        return "it holds a single slice"
    if len(set(counts)) > 1 or len(places) < series.slices or steps.max() > 1.5 * np.median(steps):
        return "slices are missing"
    return ""


def fingerprint(files: Sequence[DicomFile]) -> str:
    """Ten hexadecimal digits that the voxels of files alone decide, whatever the files' order."""
    digests = sorted(hashlib.sha256(_voxel_bytes(file.path)).digest() for file in files)
    return hashlib.sha256(b"".join(digests)).hexdigest()[:10]


def _voxel_bytes(path: Path) -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        header = pydicom.dcmread(path, specific_tags=["PixelData"], force=True)
        return bytes(header.get("PixelData") or b"")
