"""Claim: every check of lint together costs a fraction of reading the study.

Times `read_study` and `examine`, which reads and checks, in turn on each study of a folder or table
(`python benchmarks/lint.py isles22/`; a few phantoms where none is named), and prints the least
processor time of each.
"""

import argparse
import tempfile
import time
from pathlib import Path

from tfrecord_tools.layouts import find_studies
from tfrecord_tools.lint.cohort import examine, voxels_checksum
from tfrecord_tools.phantom.cohort import write_phantom_cohort
from tfrecord_tools.reading import read_files
from tfrecord_tools.study import read_study


def milliseconds(function, *arguments) -> float:
    """Processor time of one call."""
    start = time.process_time()
    function(*arguments)
    return 1000 * (time.process_time() - start)


def checksums(reading) -> None:
    """The part of `examine` that finds duplicates."""
    for volume in reading.volumes.values():
        voxels_checksum(volume.voxels)


def main() -> None:
    """Compare on the studies that are named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", nargs="?", help="folder of studies, or a CSV table")
    parser.add_argument("--rounds", type=int, default=20, help="how often each is timed")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source = arguments.source or write_phantom_cohort(
            Path(folder) / "phantoms", studies=3, controls=0
        )
        compare(source, arguments.rounds)


def compare(source, count) -> None:
    """Print a row a study, each timed `count` times."""
    print("study  read_study ms  examine ms  of it checksums ms  ratio")
    for files in find_studies(source):
        rounds = [
            (
                milliseconds(read_study, files),
                milliseconds(examine, files),
                milliseconds(checksums, read_files(files)),
            )
            for _ in range(count)
        ]
        read, examined, hashed = (min(times) for times in zip(*rounds, strict=True))
        print(f"{files.study}  {read:.1f}  {examined:.1f}  {hashed:.1f}  {examined / read:.2f}")


if __name__ == "__main__":
    main()
