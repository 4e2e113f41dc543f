"""Claims: `convert` takes at most 1.2 times what a plain loop takes, though it checks each study;
`--jobs` makes it faster in proportion; memory stays the same however many studies there are.

The plain loop is what a user would write: nibabel, `tf.train.Example`, `tf.io.TFRecordWriter`, no
check of anything. The studies are those of a folder (`python benchmarks/conversion.py isles22/`),
each several times with one voxel altered. Loop and conversion take turns; medians are compared.
"""

import argparse
import contextlib
import gzip
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import nibabel
import numpy as np

from tfrecord_tools.conversion import convert
from tfrecord_tools.layouts import find_studies
from tfrecord_tools.lint.cohort import examine
from tfrecord_tools.phantom.cohort import write_phantom_cohort
from tfrecord_tools.study import read_study
from tfrecord_tools.table import TABLE, write_table


def write_variants(source: Path, out: Path, count: int) -> Path:
    """A cohort of `count` studies made from those of `source`; the table that lists them."""
    originals, variants = find_studies(source), []
    for number in range(count):
        original = originals[number % len(originals)]
        folder = out / f"study-{number:04d}"
        folder.mkdir(parents=True)
        moved = {}
        for path in (*original.images.values(), *original.masks.values()):
            if path not in moved:
                moved[path] = folder / f"{len(moved)}{''.join(path.suffixes)}"
                _copy_altered(path, moved[path], number if path in original.images.values() else 0)
        variants.append(
            type(original)(
                study=folder.name,
                images={key: moved[path] for key, path in original.images.items()},
                masks={key: moved[path] for key, path in original.masks.items()},
            )
        )
    write_table(out / TABLE, variants, {})
    return out / TABLE


def _copy_altered(path: Path, copy: Path, number: int) -> None:
    """The same file with the last voxel, which is background, set to a number."""
    header = nibabel.load(path).header
    content = bytearray(gzip.decompress(path.read_bytes()))
    np.frombuffer(content, header.get_data_dtype(), offset=int(header["vox_offset"]))[-1] = number
    copy.write_bytes(gzip.compress(content, 6))


def plain_loop(table: Path, out: Path) -> None:
    """What a user would write."""
    import tensorflow as tf

    def of_bytes(value):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

    def of_int(value):
        return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))

    with tf.io.TFRecordWriter(str(out)) as writer:
        for files in find_studies(table):
            volumes = {
                name: nibabel.load(path).get_fdata(dtype=np.float32)
                for name, path in {**files.images, "mask": next(iter(files.masks.values()))}.items()
            }
            for index in range(volumes["mask"].shape[2]):
                feature = {"study": of_bytes(files.study.encode()), "slice": of_int(index)}
                for name, volume in volumes.items():
                    pixels = volume[:, :, index]
                    feature[f"{name}_height"] = of_int(pixels.shape[0])
                    feature[f"{name}_width"] = of_int(pixels.shape[1])
                    pixels = pixels > 0.5 if name == "mask" else pixels
                    feature[name] = of_bytes(np.ascontiguousarray(pixels).tobytes())
                example = tf.train.Example(features=tf.train.Features(feature=feature))
                writer.write(example.SerializeToString())


def examine_all(table: Path, out: Path) -> None:
    """Reading with every check."""
    for files in find_studies(table):
        examine(files)


def read_all(table: Path, out: Path) -> None:
    """Reading with only the checks that prediction needs."""
    for files in find_studies(table):
        read_study(files)


def timed(function, *arguments, **options) -> tuple[float, float]:
    """Seconds on the clock and of this process."""
    clock, process = time.perf_counter(), time.process_time()
    function(*arguments, **options)
    return time.perf_counter() - clock, time.process_time() - process


def compare_speed(table: Path, studies: int, repeats: int) -> None:
    """Print the seconds of each in turn, and the ratios of the medians."""
    ways = {
        "plain loop": plain_loop,
        "convert": convert,
        "examine": examine_all,
        "read_study": read_all,
    }
    seconds = {name: [] for name in ways}
    for _ in range(repeats + 1):
        for name, way in ways.items():
            with tempfile.TemporaryDirectory() as folder:
                seconds[name].append(timed(way, table, Path(folder) / "out"))
    # The first round also loads TensorFlow and fills the disk's cache.
    clock, process = (
        {name: statistics.median(t[which] for t in times[1:]) for name, times in seconds.items()}
        for which in (0, 1)
    )
    for name in ways:
        print(f"{name}: {1e3 * clock[name] / studies:.0f} ms a study")
    checks = process["examine"] - process["read_study"]
    loop = process["plain loop"]
    print(f"convert / plain loop, on the clock: {clock['convert'] / clock['plain loop']:.2f}")
    print(f"the same in processor time: {process['convert'] / loop:.2f}")
    print(f"the same less the checks of lint: {(process['convert'] - checks) / loop:.2f}")


def compare_jobs(few: Path, many: Path, more: int, repeats: int, jobs: int) -> None:
    """Print what each further study takes with one process and with `jobs`, their start aside.

    What the machine has to give is measured too: as many conversions side by side, each of one
    process, that know nothing of one another.
    """
    ways = {
        "--jobs 1": (1, lambda table, out: convert(table, out, jobs=1)),
        f"--jobs {jobs}": (1, lambda table, out: convert(table, out, jobs=jobs)),
        f"{jobs} side by side": (jobs, lambda table, out: convert_side_by_side(table, out, jobs)),
    }
    each = {name: [] for name in ways}
    for _ in range(repeats):
        for name, (times, way) in ways.items():
            taken = {}
            for table in (few, many):
                with tempfile.TemporaryDirectory() as folder:
                    taken[table], _ = timed(way, table, Path(folder) / "out")
            each[name].append((taken[many] - taken[few]) / more / times)
    for name, seconds in each.items():
        gain = statistics.median(a / b for a, b in zip(each["--jobs 1"], seconds, strict=True))
        taken = 1e3 * statistics.median(seconds)
        print(f"a further study, {name}: {taken:.0f} ms, {gain:.2f} times as fast as --jobs 1")


def convert_side_by_side(table: Path, out: Path, processes: int) -> None:
    """As many conversions of the same table at once, each in a process of its own."""
    program = "import sys; from tfrecord_tools.conversion import convert; convert(*sys.argv[1:])"
    running = [
        subprocess.Popen([sys.executable, "-c", program, table, out.with_name(f"out{number}")])
        for number in range(processes)
    ]
    for process in running:
        if process.wait():
            raise subprocess.CalledProcessError(process.returncode, program)


MEASURE = """
import json, re, resource, sys
from pathlib import Path
from tfrecord_tools.conversion import convert
if __name__ == "__main__":
    convert(sys.argv[1], sys.argv[2], jobs=int(sys.argv[3]))
    # Not ru_maxrss, which begins with the memory of the process that started this one.
    own = int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
    worker = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    print(json.dumps([own / 1024, worker / 1024]))
"""


def peak_mib(table: Path, out: Path, jobs: int) -> float:
    """Most memory of a conversion in a fresh process, and at worst of each of its workers."""
    script = out.with_suffix(".py")  # Workers are spawned, so the program must be a file.
    script.write_text(MEASURE)
    done = subprocess.run(
        [sys.executable, script, table, out, str(jobs)], check=True, capture_output=True
    )
    own, worker = json.loads(done.stdout)
    return own + (jobs * worker if jobs > 1 else 0)


def compare_memory(folder: Path, counts: list[int], jobs: int) -> None:
    """Print the peak by number of small studies."""
    phantoms = write_phantom_cohort(
        folder / "phantoms", studies=3, controls=0, seed=0, matrix=48, slices=(5, 7), jobs=1
    )
    for count in counts:
        table = write_variants(Path(phantoms), folder / f"cohort{count}", count)
        for number in (1, jobs):
            peak = peak_mib(table, folder / f"out{count}-{number}", number)
            print(f"{count} small studies, --jobs {number}: {peak:.0f} MiB at most")
        shutil.rmtree(folder / f"cohort{count}")


def main() -> None:
    """Speed first, then memory."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    data = os.environ.get("STROKESEG_TEST_DATA")
    parser.add_argument(
        "source", nargs="?", type=Path, default=data and Path(data) / "isles22", help="studies"
    )
    parser.add_argument("--studies", type=int, default=6, help="how many are made of them")
    parser.add_argument("--repeats", type=int, default=5, help="how often each is timed")
    parser.add_argument("--jobs", type=int, default=2, help="processes to compare with one")
    parser.add_argument("--small", type=int, nargs="*", default=[50, 500], help="sizes for memory")
    arguments = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        if arguments.source is None:
            print("no studies named, and STROKESEG_TEST_DATA is not set: speed is not measured")
        else:
            table = write_variants(arguments.source, folder / "cohort", arguments.studies)
            compare_speed(table, arguments.studies, arguments.repeats)
            more = 4 * arguments.studies
            many = write_variants(arguments.source, folder / "many", arguments.studies + more)
            compare_jobs(table, many, more, arguments.repeats, arguments.jobs)
        compare_memory(folder, arguments.small, arguments.jobs)


if __name__ == "__main__":
    main()
