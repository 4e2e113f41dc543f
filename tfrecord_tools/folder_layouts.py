"""Layouts with a folder for each study: the paper's own and APIS."""

import re
from pathlib import Path

from tfrecord_tools.image_files import first_image, image_named, images_matching, stem, those_found
from tfrecord_tools.study_files import StudyFiles


def find_foscal(source: Path) -> list[StudyFiles]:
    """The paper's own: a folder a study, masks by rater, each modality with its own mask."""
    studies = []
    for folder in _folders(source):
        images = those_found(
            adc=first_image(folder, "*ADC*/ADC.*"), dwi=first_image(folder, "*DWI*/DWI.*")
        )
        if not images:
            continue
        masks = {}
        for rater in sorted(p for p in folder.glob("Masks/*") if p.is_dir()):
            for modality in images:
                mask = first_image(rater, f"*{modality}*", f"*{modality.upper()}*")
                if mask:
                    masks[rater.name.lower(), modality] = mask
        studies.append(StudyFiles(folder.name, images, masks))
    return studies


def find_apis(source: Path) -> list[StudyFiles]:
    """APIS: ADC alone, a mask of each rater; the masks in the case's folder or beside the cases."""
    studies = []
    for folder in _folders(source):
        case = folder.name
        images = those_found(adc=image_named(folder, f"{case}_adc"))
        if not images:
            continue
        masks = {}
        for home in (source / "masks", folder, folder / "masks"):
            for path in images_matching(home, "*_mask.*"):
                rater = re.fullmatch(rf"{re.escape(case)}_(r\d+)_mask", stem(path))
                if rater:
                    masks[rater[1], "adc"] = path
        studies.append(StudyFiles(case, images, masks))
    return studies


def _folders(source: Path) -> list[Path]:
    return sorted(p for p in source.glob("[!.]*") if p.is_dir())


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
