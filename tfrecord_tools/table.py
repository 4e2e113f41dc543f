"""The CSV table of studies: `study, adc, dwi, mask_MODALITY_RATER, ..., group, split, patient`."""

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from tfrecord_tools.errors import InputError
from tfrecord_tools.study_files import MODALITIES, StudyFiles

#: Name of the table in the folders that this software writes.
TABLE = "studies.csv"


def read_table(path: Path) -> list[StudyFiles]:
    """Read the CSV table `study, adc, dwi, mask_MODALITY_RATER, ..., group, split, patient`.

    Paths are relative to the table; only `study` and one image are required. Whether the files
    exist is not looked at here: reading a study says that, so that one bad row spoils no other.

    Raises:
        InputError: The file is no table, or a row cannot be understood; it names the row.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = [(n, _stripped(row)) for n, row in enumerate(csv.DictReader(file), 2)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is not a CSV table ({error}); save it as UTF-8 CSV") from error
    if not rows or "study" not in rows[0][1]:
        raise InputError(
            f"{path} has no column 'study' or no row; a table has the columns "
            "study, adc, dwi, mask_adc_r1, ..., separated by commas"
        )
    studies = []
    for number, row in rows:
        try:
            if any(row.values()):
                studies.append(_table_row(row, path.parent))
        except InputError as error:
            raise InputError(f"{path}, row {number}: {error}") from error
    return studies


def _stripped(row: dict) -> dict[str, str]:
    """A row without the blanks around its names and values; a short row ends in ""."""
    return {key.strip(): (value or "").strip() for key, value in row.items() if key}


def _table_row(row: dict[str, str], home: Path) -> StudyFiles:
    files = {
        column: home / value
        for column, value in row.items()
        if value and (column in MODALITIES or column.startswith("mask_"))
    }
    masks = {}
    for column, file in files.items():
        if column.startswith("mask_"):
            _, _, rest = column.partition("_")
            modality, _, rater = rest.partition("_")
            if modality not in MODALITIES or not rater:
                raise InputError(
                    f"unknown column {column!r}; masks are mask_MODALITY_RATER, such as mask_adc_r1"
                )
            masks[rater.lower(), modality] = file
    return StudyFiles(
        study=row["study"],
        images={m: files[m] for m in MODALITIES if m in files},
        masks=masks,
        patient=row.get("patient", ""),
        group=row.get("group", "").lower(),
        split=row.get("split", ""),
    )


def write_table(path: Path, studies: Sequence[StudyFiles], splits: Mapping[str, str] = {}) -> None:
    """Write the table that `read_table` reads; paths become relative to it.

    Args:
        path: File to write.
        studies: The studies, a row each.
        splits: Split by study id, for the column `split`.
    """
    masks = sorted({key for files in studies for key in files.masks})
    columns = [f"mask_{modality}_{rater}" for rater, modality in masks]
    rows = []
    for files in studies:
        named = dict(files.images)
        named |= {f"mask_{modality}_{rater}": p for (rater, modality), p in files.masks.items()}
        row = {column: os.path.relpath(file, path.parent) for column, file in named.items()}
        row |= {"study": files.study, "group": files.group, "patient": files.patient}
        rows.append(row | {"split": splits.get(files.study, files.split)})
    with open(path, "w", newline="", encoding="utf-8") as file:
        header = ["study", *MODALITIES, *columns, "group", "split", "patient"]
        writer = csv.DictWriter(file, header, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
