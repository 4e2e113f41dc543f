"""Whether a shards folder is whole: every record, study, shard and split against the manifest."""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from tfrecord_tools.errors import InputError
from tfrecord_tools.grid import Grid
from tfrecord_tools.records import mask_key
from tfrecord_tools.shards import (
    MANIFEST,
    REMEDY,
    DatasetInfo,
    fetch_shard,
    read_dataset_info,
    read_records,
    sha256_of,
)
from tfrecord_tools.storage import Remote, locate
from tfrecord_tools.study_files import MODALITIES

#: What may differ between the slices of a study.
OWN = ("slice_index", "masks", *MODALITIES)


def check_shards(folder: str | Path) -> DatasetInfo:
    """Check every shard against the manifest, every record's CRC, and the splits for leaks.

    Raises:
        InputError: Everything that was found wrong, counted and named.
    """
    info = read_dataset_info(folder)
    problems = list(find_problems(folder, info))
    if problems:
        raise InputError(describe_problems(folder, problems))
    return info


def describe_problems(folder: str | Path, problems: Sequence[str]) -> str:
    """All problems of a folder in one line."""
    if len(problems) == 1:
        return problems[0]
    listed = "; ".join(f"({number}) {text}" for number, text in enumerate(problems, 1))
    return f"{folder} has {len(problems)} problems: {listed}"


def find_problems(folder: str | Path, info: DatasetInfo) -> Iterator[str]:
    """What is wrong with a shards folder, a sentence each; every shard is read once.

    Args:
        folder: A finished shards folder.
        info: Its manifest.

    Raises:
        InputError: Its storage cannot be reached.
    """
    folder = locate(folder)
    yield from _find_leaks(folder, info)
    held = {split: set(names) for split, names in info.splits.items()}
    folds = {name: number for number, fold in enumerate(info.folds) for name in fold}
    found, unread = Counter(), set()
    for name, shard in info.shards.items():
        members = {s for s in held[shard["split"]] if folds.get(s) == shard.get("fold")}
        try:
            with fetch_shard(folder / name) as local:
                if sha256_of(local) != shard["sha256"]:
                    yield f"{folder / name} is damaged (it differs from its checksum); {REMEDY}"
                records = read_records(local, folder / name, shard["records"])
                for study, slices in itertools.groupby(records, lambda r: r["study"]):
                    slices = list(slices)
                    found[study] += len(slices)
                    if study not in members:
                        yield (
                            f"{folder / name} holds study {study}, which {MANIFEST} does not put "
                            f"there; {REMEDY}"
                        )
                    elif flaw := find_flaw(slices, info.studies[study]):
                        yield f"{folder / name}: study {study} {flaw}; {REMEDY}"
        except InputError as error:
            yield str(error)
            unread |= members
    for name, study in info.studies.items():
        if found[name] != study["slices"] and name not in unread:
            yield (
                f"{folder} holds {found[name]} of the {study['slices']} slices of study {name}; "
                f"{REMEDY}"
            )


def _find_leaks(folder: Path | Remote, info: DatasetInfo) -> Iterator[str]:
    """Studies and patients that stand in two splits or two folds."""
    split_of = [(name, split) for split, names in info.splits.items() for name in names]
    fold_of = [(n, f"fold {number}") for number, fold in enumerate(info.folds) for n in fold]
    for places, kind in ((split_of, "splits"), (fold_of, "folds")):
        patients = [(info.studies[name]["patient"], place) for name, place in places]
        for pairs, who in ((places, "study"), (patients, "patient")):
            for name, stands in _in_two(pairs if who == "study" else dict.fromkeys(pairs)):
                yield (
                    f"{who} {name} stands in the {kind} {' and '.join(stands)} of {folder}; "
                    "convert the studies again"
                )


def _in_two(pairs: Iterable[tuple[str, str]]) -> Iterator[tuple[str, list[str]]]:
    places = {}
    for name, place in pairs:
        places.setdefault(name, []).append(place)
    yield from ((name, found) for name, found in places.items() if len(found) > 1)


def find_flaw(slices: Sequence[Mapping], facts: Mapping) -> str | None:
    """Why decoded records are not the study that the manifest describes, if they are not.

    Args:
        slices: Consecutive records of one study.
        facts: What the manifest says of it.
    """
    first = slices[0]
    if [s["slice_index"] for s in slices] != list(range(facts["slices"])):
        return f"has {len(slices)} slices where {facts['slices']} in order belong"
    for name in first:
        if name not in OWN and not all(_same(s[name], first[name]) for s in slices):
            return f"has slices that differ in {name}"
    said = {name: first[name] for name in ("patient", "group", "height", "width")}
    said |= {"slices": first["slice_count"], "masks": list(first["mask_names"])}
    for name, value in said.items():
        if value != facts[name]:
            return f"has {name} {value} in its records, {facts[name]} in {MANIFEST}"
    for modality in MODALITIES:
        flaw = _find_image_flaw(modality, slices, modality in facts["modalities"])
        if flaw:
            return flaw
    if any(mask_key(name)[1] not in MODALITIES for name in first["mask_names"]):
        return "has a mask of no modality"
    if not (np.isfinite(first["adc_scale"]) and first["adc_scale"] > 0):
        return f"has an adc_scale of {first['adc_scale']}"
    return _find_grid_flaw(first)


def _same(one, other) -> bool:
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return one.tobytes() == other.tobytes()
    return type(one) is type(other) and one == other


def _find_image_flaw(modality: str, slices: Sequence[Mapping], wanted: bool) -> str | None:
    limits = slices[0][f"{modality}_range"]
    if any((part is not None) != wanted for s in slices for part in (s[modality], limits)):
        return f"has {modality} in some records where {MANIFEST} says otherwise"
    if not wanted:
        return None
    low, high = (f([f(s[modality]) for s in slices]) for f in (np.min, np.max))
    if not (np.isfinite(low) and np.isfinite(high)):
        return f"has {modality} voxels that are no numbers"
    if (low, high) != tuple(limits):
        return f"has {modality} values from {low:g} to {high:g} where its records say {limits}"
    return None


def _find_grid_flaw(record: Mapping) -> str | None:
    stack = (record["height"], record["width"], record["slice_count"])
    grid = _grid(record["file_shape"], record["affine"])
    if grid is None or grid.canonical.shape != stack:
        return "has an affine and a file shape that do not place its slices"
    own = [record[name] for name in ("adc_file_shape", "adc_affine")]
    if (own[0] is None) != (own[1] is None) or (own[0] is not None and _grid(*own) is None):
        return "has an ADC grid that places nothing"
    return None


def _grid(shape: np.ndarray, affine: np.ndarray) -> Grid | None:
    places = np.isfinite(affine).all() and abs(np.linalg.det(affine[:3, :3])) > 1e-9
    if not places or shape.min() < 1 or affine[3].tolist() != [0, 0, 0, 1]:
        return None
    return Grid(tuple(int(n) for n in shape), affine)
