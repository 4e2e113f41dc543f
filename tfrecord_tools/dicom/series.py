"""The series of a DICOM study that may be ADC or DWI."""

import dataclasses
import hashlib
import itertools
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pydicom

from tfrecord_tools.dicom.files import DicomFile
from tfrecord_tools.dicom.kinds import Frame, find_kind, is_trace


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
        """Whether files hold several images."""
        return any(file.enhanced for file in self.files)

    @property
    def isotropic(self) -> bool:
        """Whether its weighted images are means over directions."""
        return all(
            is_trace(file.image_type, file.description) or all(f.isotropic for f in file.frames)
            for file in self.files
        )


def group_series(files: Sequence[DicomFile]) -> list[Series]:
    """The series of one study that may be ADC or DWI, in the order of their numbers.

    Of a series the b = 0 images, means over directions and single directions become series of
    their own, and so do maps among them; where only some images say their b-value, the others are
    b = 0. Enhanced files of a series are kept apart from its classic ones.
    """
    found = []

    def key(file):
        return file.number, file.series, file.enhanced

    by_series = itertools.groupby(sorted(files, key=key), key=key)
    for _, members in by_series:
        members = list(members)
        known = sorted(set().union(*(file.b_values for file in members)))
        parts: dict[tuple, list[DicomFile]] = {}
        for file in members:
            kind = find_kind(file.image_type, file.description, known)
            if kind == "weighted" and known:
                for part in _by_weighting(file):
                    parts.setdefault((kind, part.frames[0]), []).append(part)
            elif kind != "other":
                parts.setdefault((kind, file.frames[0].isotropic), []).append(file)
        slices = len({round(f.position, 2) for f in members if f.position is not None})
        found += [Series(kind, tuple(part), slices) for (kind, _), part in parts.items()]
    return found


def _by_weighting(file: DicomFile) -> Iterator[DicomFile]:
    """A file, or of an enhanced one the volumes of each b-value and kind of direction.

    The converter would tell them apart by rules of its own: of Philips' traces it makes b = 2000.
    """
    volumes: dict[tuple, dict[int, list[int]]] = {}
    seen: Counter = Counter()
    for index, frame in enumerate(file.frames):
        weighting = frame.b_value or 0.0, frame.isotropic
        number = 0 if frame.place is None else seen[weighting, frame.place]
        seen[weighting, frame.place] += 1
        volumes.setdefault(weighting, {}).setdefault(number, []).append(index)
    for weighting, found in volumes.items():
        whole = len(volumes) == len(found) == 1
        yield dataclasses.replace(
            file,
            frames=(Frame(*weighting),),
            volumes=None if whole else tuple(map(tuple, found.values())),
        )


def find_flaw(series: Series) -> str:
    """Why a series cannot be converted, in words; "" where nothing speaks against it."""
    truncated = sum(file.truncated for file in series.files)
    if truncated:
        return f"{truncated} of {len(series.files)} files are truncated"
    if any(len({len(volume) for volume in file.volumes or ()}) > 1 for file in series.files):
        return "slices are missing"
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
    digests = sorted(
        hashlib.sha256(_voxel_bytes(path)).digest() for path in {f.path for f in files}
    )
    return hashlib.sha256(b"".join(digests)).hexdigest()[:10]


def _voxel_bytes(path: Path) -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        header = pydicom.dcmread(path, specific_tags=["PixelData"], force=True)
        return bytes(header.get("PixelData") or b"")
