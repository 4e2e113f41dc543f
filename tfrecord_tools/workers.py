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


class Processes:
    """Calls functions on items in `jobs` processes, or here where that is 1.

    The processes start with the first call and end with the `with` block.
    """

    def __init__(self, jobs: int):
        self._jobs = jobs
        self._context = self._pool = None

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if self._pool:
            if kind:  # Ctrl-C is answered at once; half-written files have no name yet.
                for worker in self._context.workers:
                    worker.terminate()
            self._pool.shutdown(cancel_futures=True)
            self._pool = None  # Its semaphores go now, not with the process.

    def __call__(self, function: Callable, items: Sequence) -> Iterator:
        """The results of a function in the order of the items.

        Raises:
            ChildProcessError: A process died.
        """
        if self._jobs == 1:
            yield from map(function, items)
            return
        if not self._pool:
            self._context = _Context()
            self._pool = concurrent.futures.ProcessPoolExecutor(
                self._jobs, mp_context=self._context, initializer=_follow_parent
            )
        waiting = deque()
        try:
            for item in items:
                waiting.append(self._pool.submit(function, item))
                if len(waiting) >= AHEAD * self._jobs:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise ChildProcessError(
                "a worker process was killed, for want of memory perhaps; try fewer --jobs"
            ) from error


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
