"""A folder of shards: names, writer, manifest, integrity."""

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tfrecord_tools.atomic import write_text
from tfrecord_tools.errors import InputError
from tfrecord_tools.records import to_records
from tfrecord_tools.schema import SCHEMA_VERSION, decode, encode
from tfrecord_tools.splits import check_no_leak
from tfrecord_tools.study import Study

MANIFEST = "dataset_info.json"


def shard_name(split: str, index: int, count: int) -> str:
    """`train-00000-of-00008.tfrecord`."""
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
        content.pop("counts")
        info = DatasetInfo(**content)
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{manifest} is damaged ({error}); convert the studies again") from error
    if info.schema_version != SCHEMA_VERSION:
        raise InputError(
            f"{folder} has schema version {info.schema_version}, this software reads "
            f"{SCHEMA_VERSION}; convert the studies again"
        )
    return info


class ShardWriter:
    """Writes studies into one shard and keeps the count the manifest wants."""

    def __init__(self, path: Path):
        import tensorflow as tf

        self._path = path
        self._writer = tf.io.TFRecordWriter(str(path))
        self.records = 0

    def write(self, study: Study) -> None:
        """Append the slice pairs of a study."""
        for record in to_records(study):
            self._writer.write(encode(record))
            self.records += 1

    def close(self) -> dict:
        """Close the file; its number of records, size and checksum."""
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


def read_records(path: Path) -> Iterator[dict]:
    """Decode the records of one shard in order; TensorFlow checks each record's CRC.

    Raises:
        InputError: The shard is missing or damaged.
    """
    import tensorflow as tf

    with naming_damage(path):
        for serialised in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            yield decode(serialised)


@contextlib.contextmanager
def naming_damage(path: Path) -> Iterator[None]:
    """Turn TensorFlow's errors about a file into one that names it."""
    import tensorflow as tf

    try:
        yield
    except (tf.errors.DataLossError, tf.errors.InvalidArgumentError) as error:
        raise InputError(
            f"{path} is damaged (a record fails its CRC check); restore the file or convert the "
            "studies again"
        ) from error
    except tf.errors.NotFoundError as error:
        raise InputError(f"{path} is missing; restore it or convert the studies again") from error


def check_shards(folder: str | Path) -> DatasetInfo:
    """Check every shard against the manifest, every record's CRC, and the splits for leaks.

    Raises:
        InputError: The first thing found wrong, with the shard's or patient's name.
    """
    folder = Path(folder)
    info = read_dataset_info(folder)
    splits = {}
    for split, names in info.splits.items():
        for name in names:
            if splits.setdefault(name, split) != split:
                raise InputError(f"study {name} stands in two splits of {folder}; convert again")
    check_no_leak(splits, {n: s["patient"] for n, s in info.studies.items()}, str(folder))
    for name, expected in info.shards.items():
        _check_shard(folder / name, expected, splits)
    return info


def _check_shard(path: Path, expected: Mapping, splits: Mapping[str, str]) -> None:
    records = 0
    for record in read_records(path):
        records += 1
        if splits.get(record["study"]) != expected["split"]:
            raise InputError(
                f"{path} holds study {record['study']}, which the manifest does not put into the "
                f"split {expected['split']}; convert the studies again"
            )
    if records != expected["records"] or sha256_of(path) != expected["sha256"]:
        raise InputError(
            f"{path} is damaged (it differs from its checksum in {MANIFEST}); restore the file or "
            "convert the studies again"
        )
