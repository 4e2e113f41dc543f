"""A search by several processes of this machine: Keras Tuner's chief and its workers."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tfrecord_tools.errors import InputError
from tuning.lock import LOCKED, search_lock
from tuning.member import GRACE_SECONDS
from tuning.outcome import conclude, is_finished
from tuning.plan import Plan, check_search, open_search
from tuning.results import RESULT, read_result
from tuning.starts import forget_all_starts

CHIEF = "chief"
#: In the folder of a search: what its processes print.
LOGS = "logs"
#: A worker that ends so often without a result between is not started again; more often than a
#: trial that ends its process is tried, see `tuning.starts`.
MAX_DEATHS = 10
POLL_SECONDS = 0.5


def worker_ids(count: int) -> list[str]:
    """The ids of so many workers, the same every time: a trial waits for the id it was given to."""
    return [f"worker{number}" for number in range(count)]


def search_with_workers(
    shards,
    folder,
    plan: Plan,
    trials: int,
    workers: int,
    arguments: Sequence[str],
    *,
    resume=False,
    overwrite=False,
    on_trial: Callable | None = None,
) -> dict:
    """Search with a chief and workers on this machine.

    A worker that dies is started again under its id, and the chief gives it the same trial, which
    goes on from the last epoch kept. Where the chief dies all ends, to go on with `resume`.

    Args:
        shards: A finished shards folder.
        folder: Folder of the search.
        plan: The search.
        trials: Trials in all, as `arguments` have them.
        workers: How many.
        arguments: Of the `tune` command that each process is to run.
        resume: Go on with the search in `folder`.
        overwrite: Replace the search in `folder`.
        on_trial: Called with each result.

    Returns:
        See `tuning.results.write_tables`.

    Raises:
        InputError: Bad settings, another search in the folder, or a process that cannot work.
    """
    if workers < 1:
        raise InputError(f"--workers must be at least 1, received {workers}")
    folder = Path(os.path.abspath(folder))
    check_search(shards, plan, trials)
    with search_lock(folder):
        open_search(folder, plan.content(shards), resume=resume, overwrite=overwrite)
        if not is_finished(folder, trials):
            _search(folder, workers, arguments, on_trial)
        return conclude(folder, plan, trials)


def _search(folder, workers, arguments, on_trial):
    (folder / LOGS).mkdir(exist_ok=True)
    seen = set(folder.glob(f"*/{RESULT}"))
    try:
        with _processes(folder, workers, arguments) as start:
            running = {name: start(name) for name in (CHIEF, *worker_ids(workers))}
            _watch(folder, running, start, seen, on_trial)
    except KeyboardInterrupt:  # Trials were stopped and have not died.
        forget_all_starts(folder)
        raise


@contextlib.contextmanager
def _processes(folder: Path, workers: int, arguments) -> Iterator[Callable]:
    """A function that starts a process by its id; all are ended with the block."""
    started = []
    address = {"KERASTUNER_ORACLE_IP": "127.0.0.1", "KERASTUNER_ORACLE_PORT": str(_free_port())}

    def start(name):
        environment = os.environ | address | {"KERASTUNER_TUNER_ID": name}
        environment |= _share(name, workers) | {LOCKED: str(folder)}
        # Loopback never goes through a proxy.
        environment["no_proxy"] = ",".join(filter(None, [os.environ.get("no_proxy"), "127.0.0.1"]))
        with open(folder / LOGS / f"{name}.log", "ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "strokeseg_tf.cli", *arguments],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=environment,
            )
        started.append(process)
        return process

    try:
        yield start
    finally:
        for process in started:
            process.terminate()
        deadline = time.monotonic() + GRACE_SECONDS
        for process in started:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
            process.kill()
            process.wait()
            process.stdin.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _share(name: str, workers: int) -> dict[str, str]:
    """A process's part of the processors, unless the user has set it, and of the GPUs."""
    # A cluster may have given this job fewer processors than the machine has.
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    cores = str(max(1, cores // workers))
    threads = ("TF_NUM_INTRAOP_THREADS", "OMP_NUM_THREADS")
    share = {key: os.environ.get(key, cores) for key in threads}
    if name == CHIEF:
        return share | {"CUDA_VISIBLE_DEVICES": ""}
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    present = sorted(path.name[6:] for path in Path("/dev").glob("nvidia[0-9]*"))
    devices = [d for d in listed.split(",") if d] if listed is not None else present
    if devices:
        own = devices[int(name.removeprefix("worker")) % len(devices)]
        # Several workers may share a GPU.
        share |= {"CUDA_VISIBLE_DEVICES": own, "TF_FORCE_GPU_ALLOW_GROWTH": "true"}
    return share


def _watch(folder, running, start, seen, on_trial) -> None:
    """Until all workers have ended well.

    Raises:
        InputError: The chief has ended before, or a worker dies again and again.
    """
    deaths = dict.fromkeys(running, 0)
    working = [name for name in running if name != CHIEF]
    while working:
        time.sleep(POLL_SECONDS)
        for path in sorted(set(folder.glob(f"*/{RESULT}")) - seen):
            seen.add(path)
            deaths = dict.fromkeys(running, 0)
            if on_trial:
                on_trial(read_result(folder, path.parent.name.removeprefix("trial_")))
        for name in list(working):
            status = running[name].poll()
            if status == 0:
                working.remove(name)
            elif status is not None:
                deaths[name] += 1
                if status == 2 or deaths[name] == MAX_DEATHS:
                    raise InputError(_last_words(folder, name, status))
                running[name] = start(name)
        if running[CHIEF].poll() not in (None, 0):
            raise InputError(_last_words(folder, CHIEF, running[CHIEF].returncode))


def _last_words(folder: Path, name: str, status: int) -> str:
    how = f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"
    log = folder / LOGS / f"{name}.log"
    said = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    words = said[-1].removeprefix("strokeseg-tf: error: ")[:200] if said and status > 0 else ""
    return (
        f"the {name} of the search ended by {how}{f' ({words})' if words else ''}; what was "
        f"finished is kept: see {log}, then go on with --resume"
    )
