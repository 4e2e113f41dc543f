"""Work on many items in processes, bounded in memory, that never outlive their parent."""

import concurrent.futures
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection
from multiprocessing.context import SpawnContext

#: Items handed out ahead of the one that is waited for, by process.
AHEAD = 4


def in_processes(function: Callable, items: Sequence, jobs: int) -> Iterator:
    """The results of a function in the order of the items; here where `jobs` is 1.

    Raises:
        ChildProcessError: A process died.
    """
    if jobs == 1 or not items:
        yield from map(function, items)
        return
    context = _Context()
    pool = concurrent.futures.ProcessPoolExecutor(
        min(jobs, len(items)), mp_context=context, initializer=_follow_parent
    )
    waiting, finished = deque(), False
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= AHEAD * jobs:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
        finished = True
    except BrokenProcessPool as error:
        raise ChildProcessError(
            "a worker process was killed, for want of memory perhaps; try fewer --jobs"
        ) from error
    finally:
        if not finished:  # Ctrl-C is answered at once; half-written files have no name yet.
            for worker in context.workers:
                worker.terminate()
        pool.shutdown(cancel_futures=True)
        del pool, waiting  # Their semaphores go now, not with the process.


class _Context(SpawnContext):
    """Spawned processes, not forked: a caller with threads must not be copied half-way."""

    def __init__(self):
        super().__init__()
        self.workers = []

    def Process(self, *args, **options):  # noqa: N802 - the name that pools call.
        """A worker, which is remembered."""
        worker = super().Process(*args, **options)
        self.workers.append(worker)
        return worker


def _follow_parent() -> None:
    """Leave Ctrl-C to the parent, and end when it ends, killed or not."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process().sentinel
    threading.Thread(target=_end_after, args=(parent,), daemon=True).start()


def _end_after(sentinel) -> None:
    connection.wait([sentinel])
    os._exit(1)
