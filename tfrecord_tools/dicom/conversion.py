"""DICOM -> a folder a study with ADC and DWI as NIfTI, without a word about the patient."""

import dataclasses
import itertools
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tfrecord_tools.atomic import check_free, new_folder
from tfrecord_tools.dicom.choice import Picked, pick
from tfrecord_tools.dicom.files import DicomFile, DicomTree, find_dicom
from tfrecord_tools.dicom.output import (
    OUT_LAYOUTS,
    ConvertedStudy,
    move_to_bids,
    write_images,
    write_json,
)
from tfrecord_tools.dicom.program import ConversionFailed, find_program
from tfrecord_tools.dicom.series import find_flaw, fingerprint, group_series
from tfrecord_tools.dicom.volumes import Volumes, convert_series
from tfrecord_tools.errors import InputError
from tfrecord_tools.folder_layouts import foscal_files
from tfrecord_tools.study_files import StudyFiles
from tfrecord_tools.table import TABLE, write_table

#: The account of a conversion in its output folder; only folders that hold it are overwritten.
REPORT = "dicom.json"


@dataclasses.dataclass(frozen=True)
class DicomReport:
    """What became of a folder of DICOM files.

    Attributes:
        studies: Those that were converted.
        failed: Why studies were not, by a name that identifies nobody.
        remarks: What is to be known about the folder.
        dicom: How many MR images were found.
        other: How many DICOM files are no MR image.
        foreign: How many files are not DICOM.
        damaged: How many DICOM files cannot be read.
    """

    studies: tuple[ConvertedStudy, ...]
    failed: Mapping[str, str]
    remarks: tuple[str, ...]
    dicom: int
    other: int
    foreign: int
    damaged: int


def convert_dicom(
    source: str | Path,
    out: str | Path,
    *,
    layout: str = "foscal",
    overwrite: bool = False,
    timeout_s: float = 300,
    on_step: Callable[[int, int], None] | None = None,
    on_study: Callable[[str, Picked], None] | None = None,
) -> DicomReport:
    """Convert all DICOM studies below a folder; the output appears whole or not at all.

    Studies are named after a checksum of their own voxels. So a study keeps its name when others
    are added or files are moved, and the name says nothing that the image itself does not say:
    a number in the order of paths would change, and a checksum of an id, even a salted one, can
    be undone by trying all ids. A patient with several studies is named after the first of them
    in alphabetical order.

    Args:
        source: Folder, or one file.
        out: Folder to make.
        layout: "foscal" for `STUDY/{ADC,DWI}/{ADC,DWI}.nii.gz`, or "bids" for
            `sub-X/[ses-Y/]dwi/sub-X_[ses-Y_]rec-{ADC,TRACE}_dwi.nii.gz`; JSON beside each image.
        overwrite: Whether an earlier output may be replaced.
        timeout_s: Seconds that dcm2niix may take for one series.
        on_study: Called with the name and the images of each study in the layout `foscal`; they
            know the DICOM files they come from, which nothing that is written does.
        on_step: Called with (done, total); a file counts when it is read and when it is converted.

    Returns:
        What was converted, and why what was not. Nothing in it identifies a patient.

    Raises:
        InputError: Nothing can be converted, dcm2niix is missing, or `out` must not be replaced.
    """
    source, out = Path(source), Path(out)
    if layout not in OUT_LAYOUTS:
        raise InputError(f"unknown layout {layout!r} to write; use {' or '.join(OUT_LAYOUTS)}")
    if not 0 < timeout_s < float("inf"):
        raise InputError(f"a timeout of {timeout_s:g} s is impossible; give seconds above 0")
    check_free(out, overwrite, marker=REPORT)
    if source.resolve().is_relative_to(out.resolve()) and out.exists():
        raise InputError(f"{source} lies in {out}, which would be replaced; choose another name")
    program = find_program()
    on_step = on_step or (lambda done, total: None)
    tree = find_dicom(source, lambda done, files: on_step(done, 2 * files))
    if not tree.files:
        raise InputError(_nothing_found(source, tree))
    groups = _by_study(tree.files)
    studies, patients, failed, converted = [], [], {}, 0
    with new_folder(out, overwrite, marker=REPORT) as folder:
        for number, files in enumerate(groups, 1):
            with tempfile.TemporaryDirectory(prefix=".series-", dir=folder) as work:
                found, reasons = _convert_all(files, Path(work), program, timeout_s)
                picked = pick(found)
                remarks = (*reasons, *picked.remarks)
                if picked.images:
                    name = _name(picked.files, [study.study for study in studies])
                    images = write_images(picked, folder / name, files)
                    studies.append(ConvertedStudy(name, name, len(files), images, remarks))
                    patients.append(files[0].patient)
                    if on_study:
                        on_study(name, picked)
                else:
                    failed[_label(number, files)] = "; ".join(remarks) or (
                        "none of its series is diffusion-weighted or an ADC map"
                    )
            converted += len(files)
            on_step(round((1 + converted / len(tree.files)) * tree.all), 2 * tree.all)
        if not studies:
            raise InputError(f"no study in {source} can be converted: {tell_failed(failed)}")
        studies = _with_patients(studies, patients)
        table = (move_to_bids if layout == "bids" else _leave)(folder, studies)
        report = DicomReport(
            tuple(map(_renamed, studies, table)),
            failed,
            tuple(_remarks(tree, studies, patients)),
            dicom=len(tree.files),
            other=tree.other,
            foreign=tree.foreign,
            damaged=len(tree.damaged),
        )
        write_table(folder / TABLE, table)
        write_json(folder / REPORT, dataclasses.asdict(report))
    return report


def tell_failed(failed: Mapping[str, str]) -> str:
    """The studies that were not converted, with their reasons, in one line."""
    shown = [f"{label}: {reason}" for label, reason in list(failed.items())[:5]]
    more = f"; and {len(failed) - len(shown)} more" if len(failed) > len(shown) else ""
    return "; ".join(shown) + more


def _by_study(files: Sequence[DicomFile]) -> list[list[DicomFile]]:
    """The files of each study, in the order of the studies' first paths."""
    groups: dict[tuple, list[DicomFile]] = {}
    for file in files:
        groups.setdefault(file.study, []).append(file)
    return list(groups.values())


def _convert_all(
    files: Sequence[DicomFile], work: Path, program: str, timeout_s: float
) -> tuple[list[Volumes], list[str]]:
    """The volumes of a study's diffusion series, and why series are left out."""
    found, reasons = [], []
    for index, series in enumerate(group_series(files)):
        folder = work / str(index)
        folder.mkdir()
        try:
            flaw = find_flaw(series)
            if flaw:
                raise ConversionFailed(flaw)
            found += convert_series(series, folder, program=program, timeout_s=timeout_s)
        except ConversionFailed as failure:
            reasons.append(f"series {series.number} is left out: {failure}")
    return found, list(dict.fromkeys(reasons))


def _name(files: Sequence[DicomFile], taken: Sequence[str]) -> str:
    """A study's name; that of a copy under another patient ends in -2."""
    name = f"study-{fingerprint(files)}"
    names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    return next(candidate for candidate in names if candidate not in taken)


def _label(number: int, files: Sequence[DicomFile]) -> str:
    """What a study without images is called: nothing of its header, nothing of its paths."""
    series = sorted({file.number for file in files})
    return f"study {number} by path ({len(files)} files; series {_numbers(series)})"


def _with_patients(studies: Sequence[ConvertedStudy], patients: Sequence[tuple]) -> list:
    """The studies by name, each with its patient's first one as the name of the patient."""
    first: dict[tuple, str] = {}
    for study, patient in zip(studies, patients, strict=True):
        first[patient] = min(study.study, first.get(patient, study.study))
    named = (
        dataclasses.replace(study, patient=first[patient].replace("study-", "patient-"))
        for study, patient in zip(studies, patients, strict=True)
    )
    return sorted(named, key=lambda study: study.study)


def _leave(folder: Path, studies: Sequence[ConvertedStudy]) -> list[StudyFiles]:
    """The files of the studies where they are, in the `foscal` layout."""
    return [
        foscal_files(folder / study.study, study.images, (), patient=study.patient)
        for study in studies
    ]


def _renamed(study: ConvertedStudy, files: StudyFiles) -> ConvertedStudy:
    """A study by the names that its layout gives it."""
    return dataclasses.replace(study, study=files.study, patient=files.patient)


def _remarks(tree: DicomTree, studies: Sequence[ConvertedStudy], patients: Sequence[tuple]):
    if tree.damaged:
        yield (
            f"damaged DICOM files are left out, {len(tree.damaged)} of {tree.all} files (in the "
            f"order of paths {_numbers(tree.damaged)}); a study of theirs may lack a series"
        )
    if len(set(patients)) < len(patients):
        yield (
            f"{len(patients)} studies are of {len(set(patients))} patients; convert {TABLE} in the "
            "output rather than the folder, so that a patient's studies share a split"
        )


def _numbers(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:5])) + (", ..." if len(numbers) > 5 else "")


def _nothing_found(source: Path, tree: DicomTree) -> str:
    return (
        f"no MR image in DICOM found in {source}; looked for files that begin as DICOM does, under "
        f"any name; found {tree.other} other DICOM files, {len(tree.damaged)} damaged ones and "
        f"{tree.foreign} files that are not DICOM; name the folder of an export"
    )
