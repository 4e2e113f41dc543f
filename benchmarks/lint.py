"""Claim: every check of lint together costs a fraction of reading the study.

Times `read_study` and `examine`, which reads and checks, in turn on each study of a folder or table
(`python benchmarks/lint.py isles22/`), and prints the least processor time of each.
"""

import argparse
import time

from tfrecord_tools.layouts import find_studies
from tfrecord_tools.lint import examine, voxels_checksum
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
    """Print a row a study."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", help="folder of studies, or a CSV table")
    parser.add_argument("--rounds", type=int, default=20, help="how often each is timed")
    arguments = parser.parse_args()
    print("study  read_study ms  examine ms  of it checksums ms  ratio")
    for files in find_studies(arguments.source):
        rounds = [
            (
                milliseconds(read_study, files),
                milliseconds(examine, files),
                milliseconds(checksums, read_files(files)),
            )
            for _ in range(arguments.rounds)
        ]
        read, examined, hashed = (min(times) for times in zip(*rounds, strict=True))
        print(f"{files.study}  {read:.1f}  {examined:.1f}  {hashed:.1f}  {examined / read:.2f}")


if __name__ == "__main__":
    main()
