"""Where each data set keeps its files: a folder -> `StudyFiles`."""

import contextlib
import dataclasses
import itertools
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tfrecord_tools.bids_layouts import find_bids, find_isles22, find_soop
from tfrecord_tools.errors import InputError
from tfrecord_tools.folder_layouts import find_apis, find_foscal, foscal_files
from tfrecord_tools.image_files import images_matching, is_image, stem
from tfrecord_tools.study_files import StudyFiles
from tfrecord_tools.table import read_table

__all__ = ["LAYOUTS", "Layout", "find_cases", "find_studies", "foscal_files", "pair_of_files"]

#: Entries of a folder that are looked at to say what a folder without a study holds.
MOST_ENTRIES = 20_000


@dataclasses.dataclass(frozen=True)
class Layout:
    """How to find the studies of a data set, and in words what is looked for."""

    find: Callable[[Path], list[StudyFiles]]
    looks_for: str


#: Where two explain the same files, the first is meant: the special before the general.
LAYOUTS = {
    "isles22": Layout(find_isles22, "[rawdata/]sub-*/ses-*/*_{adc,dwi}.nii.gz"),
    "soop": Layout(find_soop, "sub-*/dwi/sub-*_rec-{ADC,TRACE}_dwi.nii.gz"),
    "apis": Layout(find_apis, "CASE/CASE_adc.nii.gz"),
    "foscal": Layout(find_foscal, "STUDY/*ADC*/ADC.nii.gz and STUDY/*DWI*/DWI.nii.gz"),
    "bids": Layout(
        find_bids, "sub-*/[ses-*/]dwi/*_{dwi,adc,trace}.nii.gz with rec-, acq- or desc-ADC"
    ),
}


def find_studies(source: str | Path, layout: str = "auto") -> list[StudyFiles]:
    """Find the studies of a folder in a known layout, or of a CSV table.

    Args:
        source: Folder, or a `.csv` file (see `read_table`).
        layout: A name in `LAYOUTS`, or "auto" for the one that explains most images.

    Returns:
        The studies, ordered by id.

    Raises:
        InputError: Nothing is found, two layouts explain different studies or images of the
            folder, or two studies share an id.
    """
    source = Path(source)
    if layout not in ("auto", *LAYOUTS):
        raise InputError(f"unknown layout {layout!r}; known layouts: auto, {', '.join(LAYOUTS)}")
    try:
        if not source.exists():
            raise InputError(f"{source} does not exist; give a folder of studies or a CSV table")
        if not source.is_dir():
            studies = read_table(source)
        else:
            studies = _recognise(source) if layout == "auto" else LAYOUTS[layout].find(source)
            if not studies:
                names = LAYOUTS if layout == "auto" else [layout]
                raise InputError(_nothing_found(source, names))
    except OSError as error:
        raise InputError(
            f"{error.filename or source} cannot be read ({error.strerror}); check the path and its "
            "permissions"
        ) from error
    return _unique(sorted(studies, key=lambda s: s.study), source)


def _recognise(source: Path) -> list[StudyFiles]:
    """The studies by the layout that explains most images; none where no layout finds one.

    Raises:
        InputError: No layout explains what the others do, or the only one that fits refuses.
    """
    found, refusal = {}, None
    for name, layout in LAYOUTS.items():
        try:
            studies = layout.find(source)
        except InputError as error:
            refusal = refusal or error
            continue
        if studies:
            found[name] = studies
    if not found and refusal:
        raise refusal
    if not found:
        return []
    explained = {name: _images(studies) for name, studies in found.items()}
    best = max(found, key=lambda name: (len(explained[name]), _masks(found[name])))
    for name, studies in found.items():
        others = [study for study in studies if not _images([study]) & explained[best]]
        as_many = (
            len(explained[name]) == len(explained[best]) and explained[name] != explained[best]
        )
        if others or as_many:
            raise InputError(
                f"{source} is ambiguous: it holds {len(found[best])} studies in the layout {best} "
                f"and {len(others or studies)} more in the layout {name}; say which with "
                "--layout, or describe all of them in a CSV table"
            )
    return found[best]


def _images(studies: Sequence[StudyFiles]) -> set[Path]:
    return {path for study in studies for path in study.images.values()}


def _masks(studies: Sequence[StudyFiles]) -> int:
    return sum(len(study.masks) for study in studies)


def _nothing_found(source: Path, names) -> str:
    looked = "; ".join(f"{name}: {LAYOUTS[name].looks_for}" for name in names)
    entries = sorted(p.name for p in source.iterdir())
    holds = ", ".join(entries[:5]) + (", ..." if len(entries) > 5 else "") or "nothing"
    image = next(_walk_images(source), None)
    images = f" and images such as {image.relative_to(source)}" if image else ""
    return (
        f"no study found in {source}; looked for {looked}; the folder holds {holds}{images}; "
        "name another folder or describe the studies in a CSV table"
    )


def _walk_images(folder: Path) -> Iterator[Path]:
    files = (Path(home, name) for home, _, names in os.walk(folder) for name in sorted(names))
    return filter(is_image, itertools.islice(files, MOST_ENTRIES))


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
        studies = path.is_dir() and (_inside_a_cohort(path, layout) or _alone(path))
        if not studies:
            raise
        return studies


def _inside_a_cohort(path: Path, layout: str) -> list[StudyFiles]:
    """The studies of a cohort further up whose images all lie in the folder."""
    inside = path.resolve()
    for cohort in list(inside.parents)[:3]:
        for name in LAYOUTS if layout == "auto" else [layout]:
            # What else is wrong further up is none of this study's business.
            with contextlib.suppress(InputError, OSError):
                studies = [
                    study
                    for study in LAYOUTS[name].find(cohort)
                    if all(inside in file.parents for file in study.images.values())
                ]
                if studies:
                    return studies
    return []


def _alone(folder: Path) -> list[StudyFiles]:
    """A study of the images directly in a folder, where each says its modality in its name."""
    paths = images_matching(folder, "*")
    adc = [path for path in paths if "adc" in path.name.lower()]
    dwi = [path for path in paths if "dwi" in path.name.lower() and path not in adc]
    images = {name: found[0] for name, found in (("adc", adc), ("dwi", dwi)) if len(found) == 1}
    return [StudyFiles(folder.resolve().name, images)] if images else []


def pair_of_files(adc: str | None, dwi: str | None) -> StudyFiles:
    """One study from its image files, named after what their names or folders share.

    Raises:
        InputError: A file does not exist.
    """
    images = {m: Path(p) for m, p in (("adc", adc), ("dwi", dwi)) if p}
    for modality, path in images.items():
        if not path.is_file():
            what = "is no file" if path.exists() else "does not exist"
            raise InputError(f"{path} {what}; check --{modality}")
    stems = [stem(path) for path in images.values()]
    if len(images) == 1:
        stems = [re.sub("(^|[_. -])(adc|dwi)$", "", stems[0], flags=re.IGNORECASE)]
    shared = os.path.commonprefix(stems).rstrip("_-. ")
    if not shared:
        folder = Path(os.path.commonpath([path.resolve().parent for path in images.values()]))
        shared = folder.name or "study"
    return StudyFiles(shared, images)
