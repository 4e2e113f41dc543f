"""Trials whose process dies without a word, again and again: killed, perhaps for want of memory."""

from pathlib import Path

from tfrecord_tools.atomic import write_text
from tfrecord_tools.errors import InputError

#: A trial whose processes died so often at the same point is given up.
MAX_DEATHS = 3
#: In the folder of a trial that has not ended: a line for each of its processes.
STARTS = "starts"


class Starts:
    """Notes how far each process of a trial has come: where one is left behind, it has died.

    The history does not say it, for not every epoch is kept. Each line of the file has the training
    and the epoch that a process had begun, and how many epochs it had begun in all.

    Args:
        folder: Of the trial.

    Raises:
        InputError: Its processes have died alike; the message says where.
    """

    def __init__(self, folder: Path):
        self._path = folder / STARTS
        self._before = self._path.read_text("utf-8").splitlines() if self._path.is_file() else []
        self._check()
        self._count = 0
        self._note("none", 0)

    def _check(self):
        last = [line.split() for line in self._before[-MAX_DEATHS:]]
        if len(last) < MAX_DEATHS:
            return
        trainings, epochs, counts = map(set, zip(*last, strict=True))
        if len(trainings) == len(epochs) == 1:
            where = f"in epoch {epochs.pop()}"
        elif len(counts) == 1:
            where = f"after it had begun {counts.pop()} epochs"
        else:
            return
        raise InputError(
            f"its process ended {MAX_DEATHS} times {where} without a word: killed, perhaps for "
            "want of memory"
        )

    def begin(self, training: str, epoch: int) -> None:
        """Note that a training begins an epoch."""
        self._count += 1
        self._note(training, epoch)

    def _note(self, training, epoch):
        lines = [*self._before, f"{training} {epoch} {self._count}"]
        write_text(self._path, "\n".join(lines) + "\n")


def forget_starts(folder: Path) -> None:
    """Have what a trial's processes have noted not count as a death: it ended, or was stopped."""
    (folder / STARTS).unlink(missing_ok=True)


def forget_all_starts(search: Path) -> None:
    """`forget_starts` of all trials of a search, which was stopped."""
    for path in search.glob(f"*/{STARTS}"):
        forget_starts(path.parent)
