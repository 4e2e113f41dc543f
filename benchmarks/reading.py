"""Claim: shards give at least 2,000 slice pairs of 112 x 112, or 800 of 256 x 256, a second.

Phantom studies are converted; a plain loop reads the same pixels from one file with an
`Example` a slice pair, its images and masks as bytes of their own, nothing else, and nothing
checked. Reading and loop take turns in one process on two cores; medians are compared.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import tensorflow as tf

from tfrecord_tools.conversion import convert
from tfrecord_tools.phantom.cohort import write_phantom_cohort
from tfrecord_tools.reader import read_slice_pairs, read_studies

#: Matrix -> slice pairs a second that are promised on two cores.
PROMISED = {112: 2000, 256: 800}

SPLIT = "all"


def write_shards(out: Path, matrix: int, studies: int) -> Path:
    """A cohort of phantoms, converted."""
    cohort = out / "cohort"
    write_phantom_cohort(cohort, studies=studies, controls=0, seed=0, matrix=matrix, jobs=2)
    convert(cohort, out / "shards", shares={SPLIT: 1.0})
    return out / "shards"


def write_plainly(shards: Path, out: Path) -> Path:
    """The same pixels as a user would store them: a feature an array, its bytes as they are."""
    with tf.io.TFRecordWriter(str(out)) as writer:
        for pair in read_slice_pairs(shards, SPLIT).as_numpy_iterator():
            features = {
                name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[pair[name].tobytes()]))
                for name in ("adc", "dwi", "masks")
            }
            example = tf.train.Example(features=tf.train.Features(feature=features))
            writer.write(example.SerializeToString())
    return out


def plain_dataset(path: Path, matrix: int, masks: int) -> tf.data.Dataset:
    """`TFRecordDataset(...).map(parse_single_example)` over what `write_plainly` wrote."""
    spec = {name: tf.io.FixedLenFeature((), tf.string) for name in ("adc", "dwi", "masks")}

    def parse(serialised):
        parsed = tf.io.parse_single_example(serialised, spec)
        images = {
            name: tf.reshape(tf.io.decode_raw(parsed[name], tf.float32), (matrix, matrix))
            for name in ("adc", "dwi")
        }
        drawn = tf.io.decode_raw(parsed["masks"], tf.uint8)
        return images | {"masks": tf.reshape(drawn, (masks, matrix, matrix)) > 0}

    return tf.data.TFRecordDataset(str(path)).map(parse, num_parallel_calls=tf.data.AUTOTUNE)


def timed(function) -> tuple[float, float]:
    """Pairs a second, by the clock and by the processor time of one core.

    Args:
        function: Reads slice pairs and says how many.
    """
    start, used = time.perf_counter(), time.process_time()
    count = int(function())
    return count / (time.perf_counter() - start), count / (time.process_time() - used)


def reader_of(dataset: tf.data.Dataset):
    """Reads a dataset to its end within TensorFlow, as training does; compiled and warm."""
    read = tf.function(lambda: dataset.reduce(0, lambda count, _: count + 1))
    read()
    return read


def read_whole_studies(shards: Path) -> int:
    """The same as studies, decoded with numpy; every record is held against the manifest."""
    return sum(len(study.images["adc"]) for study in read_studies(shards, SPLIT))


def main() -> None:
    """Print a row a matrix and reader."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=4, help="phantoms of each matrix")
    parser.add_argument("--passes", type=int, default=10, help="over the shards, each time")
    parser.add_argument("--rounds", type=int, default=5, help="how often each is timed")
    arguments = parser.parse_args()
    print("matrix  reader          pairs/s  pairs/s of one core  promised pairs/s")
    for matrix, promised in PROMISED.items():
        with tempfile.TemporaryDirectory() as folder:
            shards = write_shards(Path(folder), matrix, arguments.studies)
            ours = read_slice_pairs(shards, SPLIT)
            masks = len(next(iter(ours))["mask_names"])
            plain = plain_dataset(write_plainly(shards, Path(folder) / "plain"), matrix, masks)
            readers = {
                "read_slice_pairs": reader_of(ours.repeat(arguments.passes)),
                "plain loop": reader_of(plain.repeat(arguments.passes)),
                "read_studies": lambda shards=shards: read_whole_studies(shards),
            }
            rounds = [
                {name: timed(read) for name, read in readers.items()}
                for _ in range(arguments.rounds)
            ]
        rates = {
            name: [statistics.median(found[name][kind] for found in rounds) for kind in (0, 1)]
            for name in readers
        }
        for name, (clock, core) in rates.items():
            print(f"{matrix:6}  {name:16} {clock:6.0f}  {core:19.0f}  {promised:16}")
        ours, plain = rates["read_slice_pairs"], rates["plain loop"]
        print(
            f"        read_slice_pairs to plain loop: {ours[0] / plain[0]:.2f} by the clock, "
            f"{ours[1] / plain[1]:.2f} by processor time"
        )


if __name__ == "__main__":
    main()
