"""Shards -> `tf.data` of native slice pairs, or whole studies."""

import functools
import itertools
from collections.abc import Iterator
from pathlib import Path

from tfrecord_tools.errors import InputError
from tfrecord_tools.integrity import find_flaw
from tfrecord_tools.records import from_records
from tfrecord_tools.schema import parse
from tfrecord_tools.shards import REMEDY, DatasetInfo, open_shard, read_dataset_info, read_records
from tfrecord_tools.storage import Remote, locate
from tfrecord_tools.study import Study


def shards_of(folder: str | Path, info: DatasetInfo, split: str) -> list[Path | Remote]:
    """The shards of a split, or of a view such as `fold0-train`, in order.

    Raises:
        InputError: The split does not exist.
    """
    known = [*info.splits, *info.views]
    if split not in known:
        raise InputError(f"{folder} has no split {split!r}; it has {', '.join(known) or 'none'}")
    return [locate(folder) / name for name in info.shards_of(split)]


def read_slice_pairs(folder: str | Path, split: str):
    """The slice pairs of a split at their native size, in the order they were written.

    Args:
        folder: A finished shards folder.
        split: Name of a split.

    Returns:
        `tf.data.Dataset` of dictionaries with a tensor for each feature of
        `tfrecord_tools.schema.SCHEMA`; images float32 `(height, width)` with the values of the
        file, masks bool `(names, height, width)`. While it is read, `tf.errors.OpError` (or a
        `UnicodeDecodeError`, where TensorFlow quotes the record) says that a record is no slice
        pair; `tfrecord_tools.integrity.check_shards` says in which shard.

    Raises:
        InputError: The folder is unfinished, the split does not exist, or a shard is damaged.
    """
    import tensorflow as tf

    info = read_dataset_info(folder)
    paths = shards_of(folder, info, split)
    count = sum(info.shards[path.name]["records"] for path in paths)
    if any(isinstance(path, Remote) for path in paths):
        records = tf.data.Dataset.from_generator(
            lambda: _stream(paths, info), output_signature=tf.TensorSpec((), tf.string)
        )
    else:
        for path in paths:
            with open_shard(path, info.shards[path.name]):
                pass
        records = _serialised(paths)
    # A shard cut off between two records passes every CRC; the count tells.
    return records.map(parse, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).apply(
        tf.data.experimental.assert_cardinality(count)
    )


def shard_slice_pairs(folder: str | Path, split: str) -> Iterator:
    """`read_slice_pairs` shard by shard: a dataset for each, to be read before the next is taken.

    One remote shard at a time lies on the disk here, and what is wrong with it is told at once.

    Raises:
        InputError: See `read_slice_pairs`; a remote shard cannot be reached.
    """
    import tensorflow as tf

    info = read_dataset_info(folder)
    for path in shards_of(folder, info, split):
        shard = info.shards[path.name]
        with open_shard(path, shard) as local:
            yield (
                without_autotuning(_serialised([local]))
                .map(_traced_parse(), num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
                .apply(tf.data.experimental.assert_cardinality(shard["records"]))
            )


def without_autotuning(dataset):
    """A dataset that, with all that is made of it, keeps to the parallelism it was given.

    The thread that would tune it sleeps for longer and longer, and the end of an iterator may wait
    for it: 12 s were measured after reading for half a minute.
    """
    import tensorflow as tf

    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)


@functools.cache
def _traced_parse():
    """`parse`, traced once for all shards."""
    import tensorflow as tf

    return tf.function(parse, input_signature=[tf.TensorSpec((), tf.string)], autograph=False)


#: Bytes of a shard that are read at once.
READ_BYTES = 8 << 20


def _serialised(paths: list[Path]):
    import tensorflow as tf

    return tf.data.TFRecordDataset([str(path) for path in paths], buffer_size=READ_BYTES)


def _stream(paths: list[Remote], info: DatasetInfo) -> Iterator[bytes]:
    for path in paths:
        with open_shard(path, info.shards[path.name]) as local:
            yield from _serialised([local]).as_numpy_iterator()


def read_studies(folder: str | Path, split: str | None = None) -> Iterator[Study]:
    """The studies of a split (or of all), one in memory at a time.

    Raises:
        InputError: The folder is unfinished, the split does not exist, or a shard is damaged.
    """
    info = read_dataset_info(folder)
    for name in info.splits if split is None else [split]:
        for path in shards_of(folder, info, name):
            shard = info.shards[path.name]
            with open_shard(path, shard) as local:
                records = read_records(local, path, shard["records"])
                for study, slices in itertools.groupby(records, lambda r: r["study"]):
                    yield _whole_study(path, study, list(slices), info)


def _whole_study(path: Path | Remote, study: str, slices: list[dict], info: DatasetInfo) -> Study:
    if study not in info.studies:
        raise InputError(f"{path} holds study {study}, which its manifest lacks; {REMEDY}")
    if flaw := find_flaw(slices, info.studies[study]):
        raise InputError(f"{path}: study {study} {flaw}; {REMEDY}")
    return from_records(slices)
