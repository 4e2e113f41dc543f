"""Shards -> NIfTI again, in the `foscal` layout with a table."""

import dataclasses
from pathlib import Path

from tfrecord_tools.atomic import new_folder
from tfrecord_tools.layouts import foscal_files
from tfrecord_tools.names import file_name
from tfrecord_tools.nifti import write_volume
from tfrecord_tools.reader import read_studies
from tfrecord_tools.shards import read_dataset_info
from tfrecord_tools.study import Study
from tfrecord_tools.study_files import StudyFiles
from tfrecord_tools.table import TABLE, write_table


def extract(shards: str | Path, out: str | Path, *, overwrite: bool = False) -> Path:
    """Write every study back: images with the voxels of their source, to float32.

    An ADC that was resampled at conversion is written on the grid of DWI.

    Args:
        shards: A finished shards folder.
        out: Folder to write; it appears whole or not at all.
        overwrite: Replace an earlier extraction.
    """
    splits = {s: split for split, names in read_dataset_info(shards).splits.items() for s in names}
    with new_folder(out, overwrite, marker=TABLE) as folder:
        written = [_write_study(folder / file_name(s.study), s) for s in read_studies(shards)]
        write_table(folder / TABLE, written, splits)
    return Path(out)


def _write_study(folder: Path, study: Study) -> StudyFiles:
    group = "" if study.group == "unknown" else study.group
    on_disk = {(rater, modality): (file_name(rater), modality) for rater, modality in study.masks}
    files = foscal_files(folder, study.images, on_disk.values(), patient=study.patient, group=group)
    masks = {key: files.masks[name] for key, name in on_disk.items()}
    for modality, image in study.images.items():
        write_volume(files.images[modality], study.grid.to_volume(image), study.grid)
    for key, mask in study.masks.items():
        write_volume(masks[key], study.grid.to_volume(mask), study.grid)
    return dataclasses.replace(files, study=study.study, masks=masks)
