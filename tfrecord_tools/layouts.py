"""Where each data set keeps its files: a folder -> `StudyFiles`."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

from tfrecord_tools.errors import InputError
from tfrecord_tools.study_files import StudyFiles
from tfrecord_tools.table import read_table


def _first(folder: Path, *patterns: str) -> Path | None:
    """The first file that matches; hidden ones, such as macOS's `._*`, are no images."""
    matches = (p for pattern in patterns for p in sorted(folder.glob(pattern)))
    return next((p for p in matches if not p.name.startswith(".") and p.is_file()), None)


def _found(**paths: Path | None) -> dict[str, Path]:
    return {name: path for name, path in paths.items() if path is not None}


def find_isles22(source: Path) -> list[StudyFiles]:
    """ISLES 2022: one mask for both modalities, `rawdata/` and `dwi/` folders optional."""
    raw = source / "rawdata" if (source / "rawdata").is_dir() else source
    studies = []
    for session in sorted(raw.glob("sub-*/ses-*")):
        images = _found(
            adc=_first(session, "*_adc.nii*", "*/*_adc.nii*"),
            dwi=_first(session, "*_dwi.nii*", "*/*_dwi.nii*"),
        )
        if not images:
            continue
        subject = session.parent.name
        derived = source / "derivatives" / subject / session.name
        mask = _first(derived, "*_msk.nii*", "*/*_msk.nii*")
        masks = {("r1", modality): mask for modality in images} if mask else {}
        studies.append(StudyFiles(f"{subject}_{session.name}", images, masks, patient=subject))
    return studies


def find_foscal(source: Path) -> list[StudyFiles]:
    """The paper's own: a folder a study, masks by rater, each modality with its own mask."""
    studies = []
    for folder in sorted(p for p in source.glob("[!.]*") if p.is_dir()):
        images = _found(adc=_first(folder, "*ADC*/ADC.nii*"), dwi=_first(folder, "*DWI*/DWI.nii*"))
        if not images:
            continue
        masks = {}
        for rater in sorted(p for p in folder.glob("Masks/*") if p.is_dir()):
            for modality in images:
                mask = _first(rater, f"*{modality}*.nii*", f"*{modality.upper()}*.nii*")
                if mask:
                    masks[rater.name.lower(), modality] = mask
        studies.append(StudyFiles(folder.name, images, masks))
    return studies


def foscal_files(folder: Path, modalities, masks, *, patient="", group="") -> StudyFiles:
    """The files of a study that is written in the `foscal` layout; makes their folders.

    Args:
        folder: The study's folder, named after the study.
        modalities: Its images.
        masks: (rater, modality) of its masks.
        patient: See `StudyFiles`.
        group: See `StudyFiles`.
    """
    files = StudyFiles(
        folder.name,
        {m: folder / m.upper() / f"{m.upper()}.nii.gz" for m in modalities},
        {(rater, m): folder / "Masks" / rater / f"{m}.nii.gz" for rater, m in masks},
        patient,
        group,
    )
    for file in (*files.images.values(), *files.masks.values()):
        file.parent.mkdir(parents=True, exist_ok=True)
    return files


@dataclasses.dataclass(frozen=True)
class Layout:
    """How to find the studies of a data set, and in words what is looked for."""

    find: Callable[[Path], list[StudyFiles]]
    looks_for: str


LAYOUTS = {
    "isles22": Layout(find_isles22, "[rawdata/]sub-*/ses-*/*_{adc,dwi}.nii.gz"),
    "foscal": Layout(find_foscal, "STUDY/*ADC*/ADC.nii.gz and STUDY/*DWI*/DWI.nii.gz"),
}


def find_studies(source: str | Path, layout: str = "auto") -> list[StudyFiles]:
    """Find the studies of a folder in a known layout, or of a CSV table.

    Args:
        source: Folder, or a `.csv` file (see `read_table`).
        layout: A name in `LAYOUTS`, or "auto" for the first that finds a study.

    Returns:
        The studies, ordered by id.

    Raises:
        InputError: Nothing is found, or two studies share an id.
    """
    source = Path(source)
    if not source.exists():
        raise InputError(f"{source} does not exist; give a folder of studies or a CSV table")
    if layout not in ("auto", *LAYOUTS):
        raise InputError(f"unknown layout {layout!r}; known layouts: auto, {', '.join(LAYOUTS)}")
    if source.is_file():
        studies = read_table(source)
    else:
        names = LAYOUTS if layout == "auto" else [layout]
        studies = next((s for name in names if (s := LAYOUTS[name].find(source))), [])
        if not studies:
            raise InputError(_nothing_found(source, names))
    return _unique(sorted(studies, key=lambda s: s.study), source)


def _nothing_found(source: Path, names) -> str:
    looked = "; ".join(f"{name}: {LAYOUTS[name].looks_for}" for name in names)
    entries = sorted(p.name for p in source.iterdir())
    holds = ", ".join(entries[:5]) + (", ..." if len(entries) > 5 else "") or "nothing"
    return (
        f"no study found in {source}; looked for {looked}; the folder holds {holds}; "
        "name another folder or describe the studies in a CSV table"
    )


def _unique(studies: list[StudyFiles], source: Path) -> list[StudyFiles]:
    for one, other in zip(studies, studies[1:], strict=False):
        if one.study == other.study:
            raise InputError(
                f"study id {one.study!r} stands twice in {source}; give each study its own id"
            )
    return studies


def find_cases(paths: list[str], layout: str = "auto") -> list[StudyFiles]:
    """The studies a user names: study folders, cohort folders or tables, in any mixture.

    Raises:
        InputError: A path holds no study, or two studies share an id.
    """
    found = [study for path in paths for study in _find_case(Path(path), layout)]
    return _unique(sorted(found, key=lambda s: s.study), Path(paths[0]).parent)


def _find_case(path: Path, layout: str) -> list[StudyFiles]:
    """A cohort, or a study's folder somewhere inside one."""
    try:
        return find_studies(path, layout)
    except InputError:
        if not path.is_dir():
            raise
        names = LAYOUTS if layout == "auto" else [layout]
        inside = path.resolve()
        for cohort in list(inside.parents)[:3]:
            for name in names:
                studies = [
                    study
                    for study in LAYOUTS[name].find(cohort)
                    if all(inside in file.parents for file in study.images.values())
                ]
                if studies:
                    return studies
        images = _found(adc=_only(path, "adc"), dwi=_only(path, "dwi"))
        if not images:
            raise
        return [StudyFiles(inside.name, images)]


def _only(folder: Path, modality: str) -> Path | None:
    """The one image directly in a folder whose name says its modality."""
    images = [p for p in sorted(folder.glob("*.nii*")) if modality in p.name.lower()]
    return images[0] if len(images) == 1 else None


def pair_of_files(adc: str | None, dwi: str | None) -> StudyFiles:
    """One study from its image files, named after what their names or folders share.

    Raises:
        InputError: A file does not exist.
    """
    images = {m: Path(p) for m, p in (("adc", adc), ("dwi", dwi)) if p}
    for modality, path in images.items():
        if not path.is_file():
            raise InputError(f"{path} does not exist; check --{modality}")
    stems = [path.name.split(".nii")[0] for path in images.values()]
    shared = os.path.commonprefix(stems).rstrip("_-. ")
    if len(images) == 1 or not shared:
        folder = Path(os.path.commonpath([path.resolve().parent for path in images.values()]))
        shared = shared or folder.name or "study"
    return StudyFiles(shared, images)
