"""Shards -> NIfTI again, in the `foscal` layout."""

from pathlib import Path

from tfrecord_tools.atomic import new_folder
from tfrecord_tools.names import file_name
from tfrecord_tools.nifti import write_volume
from tfrecord_tools.reader import read_studies
from tfrecord_tools.study import Study


def extract(shards: str | Path, out: str | Path, *, overwrite: bool = False) -> Path:
    """Write every study back: images with the voxels of their source, to float32.

    An ADC that was resampled at conversion is written on the grid of DWI.

    Args:
        shards: A finished shards folder.
        out: Folder to write; it appears whole or not at all.
        overwrite: Replace `out` if it exists.
    """
    with new_folder(out, overwrite) as folder:
        for study in read_studies(shards):
            _write_study(folder / file_name(study.study), study)
    return Path(out)


def _write_study(folder: Path, study: Study) -> None:
    for modality, image in study.images.items():
        name = modality.upper()
        (folder / name).mkdir(parents=True)
        write_volume(folder / name / f"{name}.nii.gz", study.grid.to_volume(image), study.grid)
    for (rater, modality), mask in study.masks.items():
        (folder / "Masks" / rater).mkdir(parents=True, exist_ok=True)
        path = folder / "Masks" / rater / f"{modality}.nii.gz"
        write_volume(path, study.grid.to_volume(mask), study.grid)
