"""A folder of shards: names, writer, manifest, integrity."""

import contextlib
import dataclasses
import functools
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tfrecord_tools.atomic import write_text
from tfrecord_tools.errors import InputError
from tfrecord_tools.framing import check_frames, read_frames
from tfrecord_tools.schema import SCHEMA, SCHEMA_VERSION, decode
from tfrecord_tools.storage import Remote, is_folder, local_copy, locate, read_text

MANIFEST = "dataset_info.json"

#: The split that is divided into folds.
FOLDED = "train"

#: Names of shards, as a regular expression.
SHARD_PATTERN = r"[\w-]{1,64}-\d{5,}-of-\d{5,}\.tfrecord"

REMEDY = "restore the file or convert the studies again"


def shard_name(split: str, index: int, count: int) -> str:
    """`train-00000-of-00008.tfrecord`.

    Raises:
        InputError: The split's name cannot be part of a file name.
    """
    if not re.fullmatch(r"[\w-]{1,64}", split):
        raise InputError(f"split {split!r} needs another name: letters, digits, - and _ only")
    return f"{split}-{index:05d}-of-{count:05d}.tfrecord"


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
    """The manifest of a shards folder.

    Attributes:
        splits: Study ids by split, in the order of their records.
        studies: What is known of each study by id: patient, group, slices, modalities, raters,
            lesion_ml and more.
        shards: By file name: split, records, bytes, sha256, and the fold where there are folds.
        seed: Seed of the splits.
        adc_unit: Unit of decoded ADC values.
        versions: Software that wrote the shards.
        schema_version: `tfrecord_tools.schema.SCHEMA_VERSION` of the records.
        folds: For cross-validation, the study ids of the split `FOLDED` by fold; a shard holds
            studies of one fold.
        warnings: What was remarkable about the studies: study, code, file, message.
        left_out: Codes of the errors of the studies that were left out, by id.
    """

    splits: Mapping[str, Sequence[str]]
    studies: Mapping[str, Mapping]
    shards: Mapping[str, Mapping]
    seed: int | None
    versions: Mapping[str, str]
    adc_unit: str = "1e-3 mm2/s (stored value times adc_scale)"
    schema_version: int = SCHEMA_VERSION
    folds: Sequence[Sequence[str]] = ()
    warnings: Sequence[Mapping[str, str]] = ()
    left_out: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        for name in ("folds", "warnings"):  # JSON knows no tuples.
            object.__setattr__(self, name, list(getattr(self, name)))

    @property
    def views(self) -> dict[str, list[int]]:
        """The folds of each view: `fold0-train` is the split `FOLDED` less its fold 0."""
        every = range(len(self.folds))
        return {
            name: chosen
            for fold in every
            for name, chosen in (
                (f"fold{fold}-train", [other for other in every if other != fold]),
                (f"fold{fold}-validation", [fold]),
            )
        }

    def studies_of(self, split: str) -> list[str]:
        """Study ids of a split or view, in the order of their records.

        Raises:
            KeyError: There is no such split.
        """
        if split in self.splits:
            return list(self.splits[split])
        return [study for fold in self.views[split] for study in self.folds[fold]]

    def shards_of(self, split: str) -> list[str]:
        """Names of the shards of a split or view, in order.

        Raises:
            KeyError: There is no such split.
        """
        if split in self.splits:
            return sorted(name for name, shard in self.shards.items() if shard["split"] == split)
        chosen = self.views[split]
        return sorted(name for name, shard in self.shards.items() if shard.get("fold") in chosen)

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """Studies, slice pairs and studies by group in each split."""
        counts = {}
        for split, names in self.splits.items():
            groups = [self.studies[name]["group"] for name in names]
            counts[split] = {
                "studies": len(names),
                "slice_pairs": sum(self.studies[name]["slices"] for name in names),
                **{group: groups.count(group) for group in sorted(set(groups))},
            }
        return counts

    def write(self, folder: Path) -> None:
        """Write the manifest; a folder is finished when this file stands in it."""
        content = dataclasses.asdict(self) | {"counts": self.counts}
        write_text(folder / MANIFEST, json.dumps(content, indent=2) + "\n")


#: What a manifest that says something absurd makes Python raise.
DAMAGE = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


def read_dataset_info(folder: str | Path | Remote) -> DatasetInfo:
    """Read the manifest of a finished shards folder.

    Raises:
        InputError: The folder is missing, unfinished, or of another schema version.
    """
    folder = locate(folder)
    manifest = folder / MANIFEST
    try:
        text = read_text(manifest)
    except (FileNotFoundError, NotADirectoryError) as error:
        if not is_folder(folder):
            raise InputError(
                f"{folder} is no shards folder; write one with strokeseg-tf convert"
            ) from error
        raise InputError(
            f"{folder} is unfinished (it has no {MANIFEST}); run strokeseg-tf convert again"
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(f"{manifest} is damaged ({error}); convert the studies again") from error
    try:
        content = json.loads(text)
        version = content["schema_version"]
        counts = content.pop("counts")
        info = DatasetInfo(**content)
        whole = version != SCHEMA_VERSION or (info.counts == counts and _is_complete(info))
    except DAMAGE as error:
        raise InputError(f"{manifest} is damaged ({error}); convert the studies again") from error
    if version != SCHEMA_VERSION:
        raise InputError(
            f"{folder} has schema version {version}, this software reads {SCHEMA_VERSION}; "
            "convert the studies again"
        )
    if not whole:
        raise InputError(
            f"{manifest} is damaged (what it says does not fit together); convert the studies again"
        )
    return info


#: Of each study and shard, what the manifest must say and as what.
STUDY_FACTS = {
    "patient": str, "group": str, "slices": int, "height": int, "width": int,
    "modalities": list, "masks": list,
}  # fmt: skip
SHARD_FACTS = {"split": str, "records": int, "bytes": int, "sha256": str}


def _is_complete(info: DatasetInfo) -> bool:
    """Whether studies, splits and shards fit together and every shard lies in the folder."""
    listed = sorted(name for names in info.splits.values() for name in names)
    records = Counter()
    for shard in info.shards.values():
        records[shard["split"]] += shard["records"]
    return (
        sorted(set(listed)) == sorted(info.studies)
        and all(_states(study, STUDY_FACTS) for study in info.studies.values())
        and all(_states(shard, SHARD_FACTS) for shard in info.shards.values())
        and all(re.fullmatch(SHARD_PATTERN, name) for name in info.shards)
        and (not info.folds or _folds_fit(info))
        and records == Counter({s: count["slice_pairs"] for s, count in info.counts.items()})
    )


def _states(entry: Mapping, facts: Mapping[str, type]) -> bool:
    """Whether an entry says all facts: positive numbers, texts, lists of texts."""
    return all(
        type(entry[name]) is kind
        and (kind is not int or entry[name] > 0)
        and (kind is not list or all(isinstance(text, str) for text in entry[name]))
        for name, kind in facts.items()
    )


def _folds_fit(info: DatasetInfo) -> bool:
    """Whether the folds are the split they divide, and its shards are each of one fold."""
    records = Counter()
    for shard in info.shards.values():
        if shard["split"] == FOLDED:
            records[shard["fold"]] += shard["records"]
    return [s for fold in info.folds for s in fold] == list(info.splits[FOLDED]) and records == {
        number: sum(info.studies[study]["slices"] for study in fold)
        for number, fold in enumerate(info.folds)
    }


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextlib.contextmanager
def fetch_shard(path: Path | Remote) -> Iterator[Path]:
    """A shard as a local file, whatever it holds.

    Raises:
        InputError: It is missing, or its storage cannot be reached.
    """
    try:
        with local_copy(path) as local:
            if not local.is_file():
                raise FileNotFoundError
            yield local
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing; {REMEDY}") from error


@contextlib.contextmanager
def open_shard(path: Path | Remote, shard: Mapping) -> Iterator[Path]:
    """A shard as a local file that is, byte for byte, the one the manifest describes.

    Args:
        path: The shard.
        shard: What the manifest says of it.

    Raises:
        InputError: It is missing or damaged, or its storage cannot be reached.
    """
    with fetch_shard(path) as local:
        state = local.stat()
        digest = _sha256_once(local, state.st_size, state.st_mtime_ns, state.st_ino)
        if digest != shard["sha256"]:
            raise InputError(f"{path} is damaged (it differs from its checksum); {REMEDY}")
        with _naming_damage(path):
            check_frames(local, shard["records"])
        yield local


@functools.lru_cache(maxsize=4096)
def _sha256_once(path: Path, size: int, modified: int, inode: int) -> str:
    """The checksum of a file, computed again only when its size, time or place has changed."""
    return sha256_of(path)


def read_records(local: Path, path: Path | Remote, count: int) -> Iterator[dict]:
    """Decode the records of one shard in order, with every record's CRC checked.

    Args:
        local: The file.
        path: Where it came from, for messages.
        count: How many records it must hold, by the manifest.

    Raises:
        InputError: The shard is damaged.
    """
    found = 0
    with _naming_damage(path):
        for serialised in read_frames(local):
            found += 1
            yield _decode(serialised, path)
        if found != count:
            raise ValueError(f"{found} records instead of {count}")


@contextlib.contextmanager
def _naming_damage(path: Path | Remote) -> Iterator[None]:
    """Name the shard in what `tfrecord_tools.framing` says of it."""
    try:
        yield
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{path} is damaged ({error}); {REMEDY}") from error


def _decode(serialised: bytes, path: Path | Remote) -> dict:
    """A record whose bytes are whole, though another program may have written them."""
    try:
        record = decode(serialised)
        missing = [n for n, f in SCHEMA.items() if record[n] is None and not f.optional]
        if missing:
            raise KeyError(*missing)
    except Exception as error:
        raise InputError(f"{path} holds a record that is no slice pair; {REMEDY}") from error
    return record
