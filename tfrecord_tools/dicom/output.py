"""The images of a DICOM study as NIfTI with JSON beside them."""

import dataclasses
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from tfrecord_tools.dicom.choice import Picked
from tfrecord_tools.dicom.files import DicomFile
from tfrecord_tools.dicom.volumes import Volumes
from tfrecord_tools.folder_layouts import foscal_files
from tfrecord_tools.nifti import write_volume
from tfrecord_tools.study_files import StudyFiles

#: Layouts that can be written.
OUT_LAYOUTS = ("foscal", "bids")

#: BIDS' name of each modality's reconstruction.
RECONSTRUCTIONS = {"adc": "ADC", "dwi": "TRACE"}

BIDS_VERSION = "1.10.0"


@dataclasses.dataclass(frozen=True)
class ConvertedStudy:
    """What became of one study.

    Attributes:
        study: Its name.
        patient: A name that the studies of one patient share.
        files: How many DICOM files it has.
        images: Facts by modality, as written beside the image.
        remarks: What is to be known about it, one sentence each.
    """

    study: str
    patient: str
    files: int
    images: Mapping[str, Mapping[str, object]]
    remarks: tuple[str, ...]


def write_images(
    picked: Picked, folder: Path, files: Sequence[DicomFile]
) -> dict[str, dict[str, object]]:
    """Write a study in the `foscal` layout.

    Args:
        picked: Its images.
        folder: Folder to make, named after the study.
        files: All files of the study: what they say of people is said nowhere else.

    Returns:
        The facts beside each image, by modality.
    """
    private = frozenset().union(*(file.private for file in files))
    images = picked.images
    paths = foscal_files(folder, images, ()).images
    facts = {}
    for modality, voxels in images.items():
        volumes = picked.dwi if modality == "dwi" else picked.adc_source or picked.dwi
        if voxels.dtype == "float64":  # Scaled as it was read.
            voxels = voxels.astype("float32")
        write_volume(paths[modality], voxels, volumes.grid)
        described = _describe(modality, picked, volumes)
        facts[modality] = {k: v for k, v in described.items() if not _names(v, private)}
        write_json(_beside(paths[modality]), facts[modality])
    return facts


def _describe(modality: str, picked: Picked, volumes: Volumes) -> dict[str, object]:
    if modality == "dwi":
        facts = {
            "DiffusionBValue": _short(volumes.b_value),
            "DiffusionDirections": "trace" if volumes.isotropic else volumes.directions,
            "Units": "arbitrary",
        }
        used = [volumes]
    else:
        used = [picked.adc_source] if picked.adc_source else [picked.dwi, picked.b0]
        facts = {"ADC": "vendor" if picked.adc_source else "derived", "Units": "1e-6 mm2/s"}
        if not picked.adc_source:
            facts["DerivedFromBValues"] = sorted(_short(v.b_value) for v in used)
    spacing = [round(size, 4) for size in volumes.grid.spacing_mm]
    numbers = sorted({v.series for v in used})
    return facts | {"SpacingMm": spacing, "SeriesNumbers": numbers} | dict(volumes.facts)


def _short(b_value: float) -> int | float:
    b_value = round(float(b_value), 2)
    return int(b_value) if b_value.is_integer() else b_value


def _names(value: object, private: frozenset[str]) -> bool:
    """Whether a fact repeats what identifies somebody."""
    text = json.dumps(value, ensure_ascii=False).casefold()
    return isinstance(value, str | list) and any(
        re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text) for word in private
    )


def move_to_bids(folder: Path, studies: Sequence[ConvertedStudy]) -> list[StudyFiles]:
    """Turn the `foscal` layout that `write_images` wrote into BIDS.

    A patient with several studies has a session for each.

    Args:
        folder: Folder of the studies.
        studies: All of them.

    Returns:
        Where their images are.
    """
    patients = [study.patient for study in studies]
    moved = []
    for study in studies:
        parts = [f"sub-{_label(study.patient)}"]
        if patients.count(study.patient) > 1:
            parts.append(f"ses-{_label(study.study)}")
        home = Path(folder, *parts, "dwi")
        home.mkdir(parents=True)
        images = {}
        for modality, path in foscal_files(folder / study.study, study.images, ()).images.items():
            name = "_".join([*parts, f"rec-{RECONSTRUCTIONS[modality]}", "dwi"])
            images[modality] = path.rename(home / f"{name}.nii.gz")
            _beside(path).rename(home / f"{name}.json")
        shutil.rmtree(folder / study.study)
        moved.append(StudyFiles("_".join(parts), images, patient=parts[0]))
    write_json(
        folder / "dataset_description.json",
        {
            "Name": "ADC and DWI converted from DICOM",
            "BIDSVersion": BIDS_VERSION,
            "DatasetType": "raw",
            "GeneratedBy": [{"Name": "strokeseg-tf dicom"}],
        },
    )
    (folder / ".bidsignore").write_text("dicom.json\nstudies.csv\n", encoding="utf-8")
    return moved


def _label(name: str) -> str:
    """Letters and digits alone, as BIDS wants them: `study-1a2b-2` -> `1a2bx2`."""
    return name.partition("-")[2].replace("-", "x")


def _beside(path: Path) -> Path:
    return path.with_name(path.name.removesuffix(".nii.gz") + ".json")


def write_json(path: Path, content: object) -> None:
    """Write one JSON document."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
