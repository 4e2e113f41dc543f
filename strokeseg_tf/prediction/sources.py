"""What a user names as STUDY -> files: studies in any layout, and DICOM by way of NIfTI."""

import contextlib
import dataclasses
import itertools
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from tfrecord_tools.dicom.files import is_dicom
from tfrecord_tools.errors import InputError
from tfrecord_tools.layouts import find_cases
from tfrecord_tools.study_files import StudyFiles
from tfrecord_tools.table import TABLE, read_table

#: Files of a folder that are opened to see whether it holds DICOM.
MOST_FILES = 2000


@dataclasses.dataclass(frozen=True)
class Sources:
    """The studies that were named.

    Attributes:
        files: Those that can be predicted, by id.
        failed: Why DICOM studies could not be converted, by a name that identifies nobody.
        remarks: What is to be known about DICOM studies.
        series: The DICOM files of the images of each study that was converted from DICOM, by
            study and modality.
        hidden: Folder of what was converted: it is no place a user knows.
    """

    files: tuple[StudyFiles, ...]
    failed: Mapping[str, str]
    remarks: tuple[str, ...]
    series: Mapping[str, Mapping[str, Sequence[Path]]]
    hidden: Path | None = None

    def tell(self, text: str) -> str:
        """A message without the place of what was converted."""
        return text.replace(f"{self.hidden}{os.sep}", "") if self.hidden else text


@contextlib.contextmanager
def open_sources(
    paths: Sequence[str], layout: str = "auto", on_step: Callable[[int, int], None] | None = None
) -> Iterator[Sources]:
    """Find the studies that paths name; DICOM is converted into a folder that always vanishes.

    Args:
        paths: Study folders, cohort folders, tables, or folders (or files) of DICOM.
        layout: See `tfrecord_tools.layouts.find_studies`.
        on_step: Called with (done, total) while DICOM is converted.

    Raises:
        InputError: A path holds neither, nothing of DICOM can be converted, or two studies share
            an id.
    """
    found, dicom = [], []
    for path in map(Path, paths):
        try:
            found += find_cases([str(path)], layout)
        except InputError:
            if not holds_dicom(path):
                raise
            dicom.append(path)
    if not dicom:
        yield Sources(_unique(found), {}, (), {})
        return
    with tempfile.TemporaryDirectory(prefix="strokeseg-") as hidden:
        yield _convert(dicom, found, Path(hidden), on_step)


def _convert(paths, found, hidden: Path, on_step) -> Sources:
    from tfrecord_tools.dicom.conversion import convert_dicom

    failed, remarks, series = {}, [], {}

    def remember(study, picked):
        series[study] = {m: [f.path for f in files] for m, files in picked.sources.items()}

    for number, path in enumerate(paths, 1):
        out = hidden / str(number)
        report = convert_dicom(path, out, on_step=on_step, on_study=remember)
        found = [*found, *read_table(out / TABLE)]
        prefix = f"{path}: " if len(paths) > 1 else ""
        failed |= {f"{prefix}{label}": why for label, why in report.failed.items()}
        remarks += [f"{study.study}: {text}" for study in report.studies for text in study.remarks]
    return Sources(_unique(found), failed, tuple(remarks), series, hidden)


def _unique(found: Sequence[StudyFiles]) -> tuple[StudyFiles, ...]:
    ordered = sorted(found, key=lambda files: files.study)
    for one, other in itertools.pairwise(ordered):
        if one.study == other.study:
            raise InputError(
                f"study id {one.study!r} stands twice in what was named; name each study once"
            )
    return tuple(ordered)


def holds_dicom(path: Path) -> bool:
    """Whether a file, or one of the first files of a folder, begins as DICOM does."""
    if path.is_file():
        return is_dicom(path)
    files = (Path(home, name) for home, _, names in os.walk(path) for name in sorted(names))
    return any(map(is_dicom, itertools.islice(files, MOST_FILES)))
