"""A conversion that is killed, interrupted or out of room goes on, and its bytes tell nothing."""

import contextlib
import functools
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tfrecord_tools.atomic import work_folder
from tfrecord_tools.conversion import convert
from tfrecord_tools.errors import InputError
from tfrecord_tools.integrity import check_shards
from tfrecord_tools.reader import read_studies
from tfrecord_tools.shards import read_dataset_info
from tfrecord_tools.workers import Processes

OPTIONS = {"shares": {"train": 0.5, "validation": 0.25, "test": 0.25}}
PROGRAM = f"""
import sys
from tfrecord_tools.conversion import convert
if __name__ == "__main__":
    print("go", flush=True)
    convert(sys.argv[1], sys.argv[2], **{OPTIONS!r}, jobs=int(sys.argv[3]), overwrite=True)
"""


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def stop_after(count):
    """A progress callback that is Ctrl-C after so many studies."""

    def on_study(done, total):
        if done == count:
            raise KeyboardInterrupt

    return on_study


@pytest.fixture
def start(cohort, tmp_path):
    """Start a conversion in a process of its own; it has begun when this returns."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)

    def begin(out, jobs):
        process = subprocess.Popen(
            [sys.executable, str(program), str(cohort), str(out), str(jobs)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout.readline() == "go\n", process.stderr.read()
        return process

    return begin


def seconds_undisturbed(start, out, jobs):
    began = time.monotonic()
    process = start(out, jobs)
    waited = time.monotonic()
    assert process.wait(60) == 0, process.stderr.read()
    assert time.monotonic() - began < 60
    return time.monotonic() - waited


# Kill


def kill_and_rerun(start, cohort, shards, home, kills, jobs, seed):
    """Kill at random moments of an undisturbed run's time, each on top of a fresh start."""
    duration = seconds_undisturbed(start, home / "timed", jobs)
    assert contents(home / "timed") == contents(shards)
    moments = random.Random(seed)
    resumed = []
    for number in range(kills):
        out = home / f"out-{number}"
        process = start(out, jobs)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(moments.uniform(0, duration))
        process.kill()
        process.communicate()
        if out.exists():
            assert contents(out) == contents(shards)
        convert(cohort, out, overwrite=True, on_resume=resumed.append, **OPTIONS)
        assert contents(out) == contents(shards)
        assert [path.name for path in home.iterdir() if path.name != "timed"] == [out.name]
        shutil.rmtree(out)
    return resumed


def test_a_killed_conversion_ends_in_the_same_bytes(start, cohort, shards, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    kill_and_rerun(start, cohort, shards, home, kills=3, jobs=1, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 2])
def test_twenty_kills_end_in_the_same_bytes(start, cohort, shards, tmp_path, jobs):
    home = tmp_path / "home"
    home.mkdir()
    resumed = kill_and_rerun(start, cohort, shards, home, kills=20, jobs=jobs, seed=jobs)
    assert any(resumed), "no kill hit a conversion that had finished a study"


def test_workers_do_not_outlive_a_killed_conversion(start, tmp_path):
    children = Path("/proc/self/task")
    if not children.exists():
        pytest.skip("the processes of a process are listed in /proc, on Linux only")
    process = start(tmp_path / "out", 2)
    listing = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    deadline = time.monotonic() + 30
    workers = []
    while len(workers) < 3 and time.monotonic() < deadline:  # Two and the resource tracker.
        workers = listing.read_text().split()
        time.sleep(0.02)
    assert len(workers) == 3
    process.kill()
    process.wait()
    while any(Path(f"/proc/{pid}").exists() for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]


def test_a_killed_worker_is_one_sentence_and_what_was_done_is_kept(cohort, shards, tmp_path):
    out = tmp_path / "out"

    def kill_a_worker(done, total):
        if done == 1:
            for worker in multiprocessing.active_children():
                os.kill(worker.pid, signal.SIGKILL)

    with pytest.raises(InputError, match="worker process was killed.* kept in .*out") as refusal:
        convert(cohort, out, jobs=2, on_study=kill_a_worker, **OPTIONS)
    assert "\n" not in str(refusal.value) and not out.exists()
    resumed = []
    convert(cohort, out, on_resume=resumed.append, **OPTIONS)
    assert resumed[0] >= 1 and contents(out) == contents(shards)


# Ctrl-C


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_ctrl_c_is_answered_at_once_in_one_line(cohort, shards, tmp_path, jobs):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "strokeseg_tf.cli", "convert", cohort, out, "--jobs", jobs]
    process = subprocess.Popen(
        [*command, "--split", "train=0.5,validation=0.25,test=0.25"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell in the background would have taught the process to ignore it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    deadline = time.monotonic() + 60
    while not list(work_folder(out).glob("parts/*.json")) and time.monotonic() < deadline:
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGINT)  # As a terminal does: to the workers too.
    pressed = time.monotonic()
    _, errors = process.communicate(timeout=30)
    if process.returncode == 0:
        pytest.skip("the conversion was over before the key was pressed")
    assert process.returncode == 130 and time.monotonic() - pressed < 5
    assert errors == "strokeseg-tf: interrupted; what was finished is kept\n"
    resumed = []
    convert(cohort, out, on_resume=resumed.append, **OPTIONS)
    assert resumed[0] >= 1 and contents(out) == contents(shards)


def spoil_keeping_the_stamp(path):
    """Other bytes in the same file, to all looks: only who reads it notices."""
    status = path.stat()
    path.write_bytes(bytes(status.st_size))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_finished_studies_are_not_read_again(cohort, shards, tmp_path):
    home = shutil.copytree(cohort, tmp_path / "home" / "cohort")
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        convert(home, out, on_study=stop_after(3), **OPTIONS)
    assert not out.exists()
    for study in sorted(home.glob("phantom-*"))[:3]:
        for image in study.rglob("*.nii.gz"):
            spoil_keeping_the_stamp(image)
    resumed = []
    convert(home, out, on_resume=resumed.append, **OPTIONS)
    assert resumed == [3] and contents(out) == contents(shards)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "out"]


def test_a_file_that_changed_meanwhile_is_read_again(cohort, tmp_path):
    home = shutil.copytree(cohort, tmp_path / "home" / "cohort")
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        convert(home, out, on_study=stop_after(3), **OPTIONS)
    emptied = home / "phantom-001/Masks/r1/dwi.nii.gz"
    shutil.copy(home / "phantom-001/Masks/r2/dwi.nii.gz", emptied)
    os.utime(emptied, ns=(0, 0))
    resumed = []
    convert(home, out, on_resume=resumed.append, **OPTIONS)
    assert resumed == [2]
    convert(home, tmp_path / "undisturbed", **OPTIONS)
    assert contents(out) == contents(tmp_path / "undisturbed")
    (study,) = (s for s in read_studies(out) if s.study == "phantom-001")
    assert (study.masks["r1", "dwi"] == study.masks["r2", "dwi"]).all()


def stopped_while_joining(function, items):
    """An `execute` that is Ctrl-C after the second shard."""
    for number, result in enumerate(map(function, items)):
        if function.func.__name__ == "join_parts" and number == 1:
            raise KeyboardInterrupt
        yield result


@pytest.mark.parametrize(
    "change",
    [{}, {"seed": 1, "shard_mb": 0.2}, {"adc_unit": "1e-6"}],
    ids=["the same", "other shards", "another unit"],
)
def test_whatever_was_joined_other_options_give_their_own_bytes(cohort, tmp_path, change):
    out, options = tmp_path / "out", OPTIONS | {"shard_mb": 1e-6}
    with pytest.raises(KeyboardInterrupt):
        convert(cohort, out, execute=stopped_while_joining, **options)
    assert list(work_folder(out).rglob("*-of-*.tfrecord"))
    convert(cohort, out, **options | change)
    convert(cohort, tmp_path / "undisturbed", **options | change)
    assert contents(out) == contents(tmp_path / "undisturbed")
    check_shards(out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "undisturbed"]


def test_studies_that_are_gone_leave_nothing_behind(cohort, tmp_path):
    home = shutil.copytree(cohort, tmp_path / "home" / "cohort")
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        convert(home, out, on_study=stop_after(3), **OPTIONS)
    for study in sorted(home.glob("phantom-*"))[:2]:
        shutil.rmtree(study)
    (home / "studies.csv").unlink()
    info = convert(home, out, **OPTIONS).info
    assert len(info.studies) == 6
    assert {path.name for path in out.iterdir()} == {"dataset_info.json", *info.shards}


def test_a_mistyped_option_loses_nothing(cohort, shards, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        convert(cohort, out, on_study=stop_after(3), **OPTIONS)
    with pytest.raises(InputError, match="sum to 1"):
        convert(cohort, out, shares={"train": 0.5})
    resumed = []
    convert(cohort, out, on_resume=resumed.append, **OPTIONS)
    assert resumed[0] >= 3 and contents(out) == contents(shards)


def test_damaged_work_is_done_anew(cohort, shards, tmp_path):
    """As a power failure leaves it: named but empty, or cut off."""
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        convert(cohort, out, execute=stopped_while_joining, **OPTIONS)
    files = [p for p in work_folder(out).rglob("*") if p.is_file() and p.stat().st_size]
    assert len(files) > 8
    for number, file in enumerate(files):
        file.write_bytes(b"" if number % 2 else file.read_bytes()[:-5])
    convert(cohort, out, **OPTIONS)
    assert contents(out) == contents(shards)


# Two at once


def test_a_second_conversion_to_the_same_output_is_refused(cohort, shards, tmp_path):
    out = tmp_path / "out"
    refused = []

    def start_another(done, total):
        if done == 2:
            with pytest.raises(InputError, match="out is being written by another") as refusal:
                convert(cohort, out, **OPTIONS)
            refused.append(str(refusal.value))

    convert(cohort, out, on_study=start_another, **OPTIONS)
    assert len(refused) == 1 and contents(out) == contents(shards)


# No room


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_full_disk_is_one_sentence_and_loses_nothing(cohort, shards, small_disk, jobs):
    place, remount = small_disk
    with pytest.raises(InputError, match="cannot be written .No space left on device") as refusal:
        convert(cohort, place / "out", jobs=jobs, **OPTIONS)
    assert "\n" not in str(refusal.value) and not (place / "out").exists()
    remount("size=20m")
    resumed = []
    convert(cohort, place / "out", on_resume=resumed.append, **OPTIONS)
    assert resumed and resumed[0] >= 1
    assert contents(place / "out") == contents(shards)
    assert [path.name for path in place.iterdir()] == ["out"]


def test_a_read_only_disk_is_one_sentence(cohort, shards, small_disk):
    place, remount = small_disk
    remount("size=20m")
    shutil.copytree(shards, place / "out")
    remount("ro")
    for options in ({}, {"overwrite": True}):
        with pytest.raises(InputError) as refusal:
            convert(cohort, place / "out", **options)
        assert "\n" not in str(refusal.value)
        assert contents(place / "out") == contents(shards)
    assert "Read-only file system" in str(refusal.value)
    assert read_dataset_info(place / "out").studies


# No TensorFlow, so no GPU


def test_a_conversion_imports_no_tensorflow(cohort, tmp_path):
    program = (
        "import sys; from tfrecord_tools.conversion import convert; "
        f"convert({str(cohort)!r}, {str(tmp_path / 'out')!r}); print('tensorflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr


def test_results_come_in_order_and_processes_serve_again():
    items = list(range(40, 0, -1))
    with Processes(2) as execute:
        for base in (2, 3):
            assert list(execute(functools.partial(pow, base), items)) == [base**n for n in items]
    assert not multiprocessing.active_children()
