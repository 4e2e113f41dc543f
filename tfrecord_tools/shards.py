"""A folder of shards: names, writer, manifest, integrity."""

import contextlib
import dataclasses
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tfrecord_tools.atomic import write_text
from tfrecord_tools.errors import InputError
from tfrecord_tools.records import to_records
from tfrecord_tools.schema import SCHEMA_VERSION, decode, encode
from tfrecord_tools.splits import check_no_leak
from tfrecord_tools.study import Study

MANIFEST = "dataset_info.json"

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
        shards: By file name: split, records, bytes, sha256.
        seed: Seed of the splits.
        adc_unit: Unit of decoded ADC values.
        versions: Software that wrote the shards.
        schema_version: `tfrecord_tools.schema.SCHEMA_VERSION` of the records.
    """

    splits: Mapping[str, Sequence[str]]
    studies: Mapping[str, Mapping]
    shards: Mapping[str, Mapping]
    seed: int | None
    versions: Mapping[str, str]
    adc_unit: str = "1e-3 mm2/s (stored value times adc_scale)"
    schema_version: int = SCHEMA_VERSION

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


def read_dataset_info(folder: str | Path) -> DatasetInfo:
    """Read the manifest of a finished shards folder.

    Raises:
        InputError: The folder is missing, unfinished, or of another schema version.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder} is no shards folder; write one with strokeseg-tf convert")
    manifest = folder / MANIFEST
    if not manifest.is_file():
        raise InputError(
            f"{folder} is unfinished (it has no {MANIFEST}); run strokeseg-tf convert again"
        )
    try:
        content = json.loads(manifest.read_text(encoding="utf-8"))
        version = content["schema_version"]
        counts = content.pop("counts")
        info = DatasetInfo(**content)
        whole = version != SCHEMA_VERSION or (info.counts == counts and _is_complete(info))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
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


def _is_complete(info: DatasetInfo) -> bool:
    """Whether studies, splits and shards fit together and every shard lies in the folder."""
    listed = sorted(name for names in info.splits.values() for name in names)
    facts = {"patient", "modalities", "masks"}
    described = {"split", "records", "bytes", "sha256"}
    records = Counter()
    for shard in info.shards.values():
        records[shard["split"]] += shard["records"]
    return (
        sorted(set(listed)) == sorted(info.studies)
        and all(facts <= set(study) for study in info.studies.values())
        and all(described <= set(shard) for shard in info.shards.values())
        and all(Path(name).name == name for name in info.shards)
        and records == Counter({s: count["slice_pairs"] for s, count in info.counts.items()})
    )


class ShardWriter:
    """Writes studies into one shard and keeps the count the manifest wants."""

    def __init__(self, path: Path):
        import tensorflow as tf

        self._path = path
        self._writer = tf.io.TFRecordWriter(str(path))
        self.records = 0

    def write(self, study: Study) -> None:
        """Append the slice pairs of a study."""
        with naming_damage(self._path, "written"):
            for record in to_records(study):
                self._writer.write(encode(record))
                self.records += 1

    def close(self) -> dict:
        """Close the file; its number of records, size and checksum."""
        with naming_damage(self._path, "written"):
            self._writer.close()
        return {
            "records": self.records,
            "bytes": self._path.stat().st_size,
            "sha256": sha256_of(self._path),
        }


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def read_records(path: Path, count: int) -> Iterator[dict]:
    """Decode the records of one shard in order; TensorFlow checks each record's CRC.

    Args:
        path: The shard.
        count: How many records it must hold, by the manifest.

    Raises:
        InputError: The shard is missing or damaged.
    """
    import tensorflow as tf

    found = 0
    with naming_damage(path, "read"):
        for serialised in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            found += 1
            yield _decode(serialised, path)
    if found != count:
        raise InputError(f"{path} is damaged ({found} records instead of {count}); {REMEDY}")


def _decode(serialised: bytes, path: Path) -> dict:
    """A record whose bytes are whole, though another program may have written them."""
    try:
        return decode(serialised)
    except Exception as error:
        raise InputError(f"{path} holds a record that is no slice pair; {REMEDY}") from error


@contextlib.contextmanager
def naming_damage(path: Path, action: str) -> Iterator[None]:
    """Turn TensorFlow's errors about a file that is `action` ("read") into one that names it."""
    import tensorflow as tf

    try:
        yield
    except tf.errors.DataLossError as error:
        raise InputError(f"{path} is damaged (a record fails its CRC check); {REMEDY}") from error
    except tf.errors.NotFoundError as error:
        raise InputError(f"{path} is missing; {REMEDY}") from error
    except tf.errors.OpError as error:
        reason = error.message.rpartition(";")[2].strip()  # It starts with the path.
        raise InputError(
            f"{path} cannot be {action} ({reason}); check its rights and the disk"
        ) from error


def check_shards(folder: str | Path) -> DatasetInfo:
    """Check every shard against the manifest, every record's CRC, and the splits for leaks.

    Raises:
        InputError: The first thing found wrong, with the shard's, study's or patient's name.
    """
    folder = Path(folder)
    info = read_dataset_info(folder)
    splits = {}
    for split, names in info.splits.items():
        for name in names:
            if name in splits:
                raise InputError(
                    f"study {name} stands in the splits {splits[name]} and {split} of {folder}; "
                    "convert the studies again"
                )
            splits[name] = split
    check_no_leak(splits, {n: s["patient"] for n, s in info.studies.items()}, str(folder))
    found = Counter()
    for name, shard in info.shards.items():
        found += _check_shard(folder / name, shard, info, splits)
    for name, study in info.studies.items():
        if found[name] != study["slices"]:
            raise InputError(
                f"{folder} holds {found[name]} of the {study['slices']} slices of study {name}; "
                f"{REMEDY}"
            )
    return info


def _check_shard(path: Path, shard: Mapping, info: DatasetInfo, splits: Mapping) -> Counter:
    """Slices by study, after holding every record against the manifest."""
    found = Counter()
    for record in read_records(path, shard["records"]):
        name = record["study"]
        found[name] += 1
        if splits.get(name) != shard["split"]:
            raise InputError(
                f"{path} holds study {name}, which {MANIFEST} does not put into the split "
                f"{shard['split']}; {REMEDY}"
            )
        if record["patient"] != info.studies[name]["patient"]:
            raise InputError(
                f"{path} says that study {name} is of patient {record['patient']}, {MANIFEST} "
                f"says {info.studies[name]['patient']}; {REMEDY}"
            )
    if sha256_of(path) != shard["sha256"]:
        raise InputError(f"{path} is damaged (it differs from its checksum); {REMEDY}")
    return found
