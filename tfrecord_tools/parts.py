"""A study's records in a file of their own, and shards joined from such files.

Both are steps of a conversion, done in any process and in any order: a step writes its file beside
its place, renames it, then says in a JSON file that it is finished. A step that finds itself
finished does nothing, so an interrupted conversion goes on where it was.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import platform
import uuid
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path

import google_crc32c
import numpy as np

from tfrecord_tools.atomic import NEW, UNFINISHED
from tfrecord_tools.findings import Finding
from tfrecord_tools.framing import frame
from tfrecord_tools.image_files import stem
from tfrecord_tools.lint.cohort import examine
from tfrecord_tools.records import to_records
from tfrecord_tools.schema import SCHEMA_VERSION, encode
from tfrecord_tools.study import Study
from tfrecord_tools.study_files import MODALITIES, StudyFiles

PARTS, SHARDS = "parts", "shards"

#: What is read beside an image of that name: b-values, and the voxels of a MetaImage.
SIDECARS = (".bval", ".json", ".raw", ".zraw")

BLOCK_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True)
class Part:
    """A study that was read, checked and, unless it has errors, written.

    Attributes:
        study: Identifier.
        key: Name of its file: a checksum of everything the records depend on.
        errors: Why it cannot be converted.
        warnings: Code, file name and message of what may spoil a result.
        content: See `tfrecord_tools.lint.Examination`.
        facts: What the manifest says of it.
        bytes: Size of its file.
        crc32c: Of its file.
        resumed: Whether an earlier conversion has made it.
    """

    study: str
    key: str
    errors: Sequence[Finding] = ()
    warnings: Sequence[Mapping[str, str]] = ()
    content: Mapping[str, str] = dataclasses.field(default_factory=dict)
    facts: Mapping = dataclasses.field(default_factory=dict)
    bytes: int = 0
    crc32c: int = 0
    resumed: bool = False


def part_file(work: Path, key: str) -> Path:
    """Where the records of a study lie until they are joined."""
    return work / PARTS / f"{key}.tfrecord"


def make_part(
    files: StudyFiles, *, work: Path, adc_unit: str, joined: frozenset[str] = frozenset()
) -> Part:
    """Read, check and write one study, unless that is done.

    Args:
        files: Where its images and masks are.
        work: The conversion's work folder.
        adc_unit: See `tfrecord_tools.study.read_study`.
        joined: Keys of the parts that already stand in a shard.
    """
    key = part_key(files, adc_unit)
    finished = _finished_part(work, key, joined)
    if finished:
        return finished
    examination = examine(files, adc_unit)
    errors = [found for found in examination.findings if found.severity == "error"]
    if errors:
        return Part(files.study, key, errors)
    with _writing(part_file(work, key), work) as file:
        size, crc = 0, 0
        for record in to_records(examination.study):
            framed = frame(encode(record))
            file.write(framed)
            size += len(framed)
            crc = google_crc32c.extend(crc, framed)
    part = Part(
        study=files.study,
        key=key,
        warnings=[
            {"code": f.code, "file": Path(f.file).name, "message": f.message}
            for f in examination.findings
            if f.severity == "warning"
        ],
        content=dict(examination.content),
        facts=study_facts(examination.study),
        bytes=size,
        crc32c=crc,
    )
    _write_json(work / PARTS / f"{key}.json", dataclasses.asdict(part), work)
    return part


def part_key(files: StudyFiles, adc_unit: str) -> str:
    """Checksum of all that the records of a study depend on: files, options and software."""
    paths = [*files.images.values(), *files.masks.values()]
    named = [str(key) for key in (*files.images, *files.masks)]
    beside = [path.with_name(stem(path) + ending) for path in paths for ending in SIDECARS]
    depends = [
        *(files.study, files.patient, files.group, adc_unit, SCHEMA_VERSION, versions()),
        *(named, [_stamp(path) for path in [*paths, *beside]]),
    ]
    return hashlib.sha256(json.dumps(depends).encode()).hexdigest()[:32]


def _stamp(path: Path) -> tuple:
    """What changes when a file does."""
    try:
        status = os.stat(path)
    except OSError:
        return ()
    return os.path.abspath(path), status.st_size, status.st_mtime_ns


@functools.cache
def versions() -> dict[str, str]:
    """The software that reads studies and writes records."""
    packages = ("strokeseg-tf", "tensorflow", "numpy", "nibabel")
    return {"python": platform.python_version()} | {p: metadata.version(p) for p in packages}


def _finished_part(work: Path, key: str, joined: frozenset[str]) -> Part | None:
    part = _read_json(work / PARTS / f"{key}.json")
    if not part:
        return None
    part = Part(**part | {"resumed": True})
    if key not in joined:
        size, crc = 0, 0
        try:
            for block in _blocks(part_file(work, key)):
                size += len(block)
                crc = google_crc32c.extend(crc, block)
        except FileNotFoundError:
            return None
        if (size, crc) != (part.bytes, part.crc32c):
            return None
    return part


def study_facts(study: Study) -> dict:
    """What the manifest says of a study."""
    slices, height, width = next(iter(study.images.values())).shape
    return {
        "patient": study.patient,
        "group": study.group,
        "slices": slices,
        "height": height,
        "width": width,
        "spacing_mm": [round(s, 6) for s in study.grid.spacing_mm],
        "modalities": [m for m in MODALITIES if m in study.images],
        "masks": sorted(f"{rater}_{modality}" for rater, modality in study.masks),
        "lesion_ml": {
            f"{rater}_{modality}": round(float(np.sum(mask)) * study.grid.voxel_ml, 6)
            for (rater, modality), mask in sorted(study.masks.items())
        },
        "adc_scale": study.adc_scale,
        "adc_resampled": study.adc_grid is not None,
    }


@dataclasses.dataclass(frozen=True)
class PlannedShard:
    """A shard to be: its name, what the manifest says of it, and the parts it is joined from."""

    name: str
    description: Mapping
    keys: Sequence[str]


def join_parts(shard: PlannedShard, *, work: Path) -> dict:
    """Join the parts of a shard, unless that is done; what the manifest says of it."""
    finished = work / SHARDS / f"{shard.name}.json"
    record = _read_json(finished)
    if record and record["keys"] == list(shard.keys):
        return dict(shard.description) | record["file"]
    digest, size = hashlib.sha256(), 0
    with _writing(work / NEW / shard.name, work) as file:
        for key in shard.keys:
            for block in _blocks(part_file(work, key)):
                digest.update(block)
                size += file.write(block)
    found = {"bytes": size, "sha256": digest.hexdigest()}
    _write_json(finished, {"keys": list(shard.keys), "file": found}, work)
    for key in shard.keys:  # A conversion needs little more room than its shards.
        part_file(work, key).unlink(missing_ok=True)
    return dict(shard.description) | found


def joined_shards(work: Path) -> dict[str, list[str]]:
    """The keys in each shard that an earlier conversion has joined; broken ones are removed."""
    joined = {}
    for finished in sorted((work / SHARDS).glob("*.json")):
        record, path = _read_json(finished), work / NEW / finished.stem
        if record and path.is_file() and _sha256(path) == record["file"]["sha256"]:
            joined[finished.stem] = record["keys"]
        else:
            forget_shard(work, finished.stem)
    return joined


def forget_shard(work: Path, name: str) -> None:
    """Remove a joined shard that is not wanted any more."""
    (work / SHARDS / f"{name}.json").unlink(missing_ok=True)
    (work / NEW / name).unlink(missing_ok=True)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    for block in _blocks(path):
        digest.update(block)
    return digest.hexdigest()


def _blocks(path: Path) -> Iterator[bytes]:
    with open(path, "rb") as file:
        while block := file.read(BLOCK_BYTES):
            yield block


def _read_json(path: Path) -> dict | None:
    """None where it is missing, or was cut off by a power failure."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None


def _write_json(path: Path, content: Mapping, work: Path) -> None:
    with _writing(path, work) as file:
        file.write(json.dumps(content).encode())


@contextlib.contextmanager
def _writing(path: Path, work: Path) -> Iterator:
    """A file that stands at `path` when the block ends; an error names it."""
    unfinished = work / UNFINISHED / uuid.uuid4().hex
    try:
        with open(unfinished, "wb") as file:
            yield file
        os.replace(unfinished, path)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error
