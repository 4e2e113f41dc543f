"""Shards -> `tf.data` of native slice pairs, or whole studies."""

import itertools
from collections.abc import Iterator
from pathlib import Path

from tfrecord_tools.errors import InputError
from tfrecord_tools.records import from_records
from tfrecord_tools.schema import parse
from tfrecord_tools.shards import REMEDY, DatasetInfo, read_dataset_info, read_records
from tfrecord_tools.study import Study


def shards_of(folder: str | Path, info: DatasetInfo, split: str) -> list[Path]:
    """The shards of a split, in order.

    Raises:
        InputError: The split does not exist.
    """
    if split not in info.splits:
        raise InputError(
            f"{folder} has no split {split!r}; it has {', '.join(info.splits) or 'none'}"
        )
    names = sorted(name for name, shard in info.shards.items() if shard["split"] == split)
    return [Path(folder) / name for name in names]


def read_slice_pairs(folder: str | Path, split: str):
    """The slice pairs of a split at their native size, in the order they were written.

    Args:
        folder: A finished shards folder.
        split: Name of a split.

    Returns:
        `tf.data.Dataset` of dictionaries with a tensor for each feature of
        `tfrecord_tools.schema.SCHEMA`; images float32 `(height, width)` with the values of the
        file, masks bool `(names, height, width)`.

    Raises:
        InputError: The folder is unfinished or the split does not exist.
    """
    import tensorflow as tf

    folder = Path(folder)
    info = read_dataset_info(folder)
    paths = shards_of(folder, info, split)
    records = tf.data.TFRecordDataset([str(path) for path in paths], buffer_size=8 << 20)
    # A shard cut off between two records passes every CRC; the count tells.
    count = sum(info.shards[path.name]["records"] for path in paths)
    return records.map(parse, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).apply(
        tf.data.experimental.assert_cardinality(count)
    )


def read_studies(folder: str | Path, split: str | None = None) -> Iterator[Study]:
    """The studies of a split (or of all), one in memory at a time.

    Raises:
        InputError: The folder is unfinished, the split does not exist, or a shard is damaged.
    """
    folder = Path(folder)
    info = read_dataset_info(folder)
    for name in info.splits if split is None else [split]:
        for path in shards_of(folder, info, name):
            records = read_records(path, info.shards[path.name]["records"])
            for study, slices in itertools.groupby(records, lambda r: r["study"]):
                slices = list(slices)
                if [s["slice_index"] for s in slices] != list(range(slices[0]["slice_count"])):
                    raise InputError(f"{path} lacks slices of study {study}; {REMEDY}")
                yield from_records(slices)
