"""Keeps what an epoch brought: the best model, the last state, the row of the history."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import keras

from strokeseg_tf.engine.checkpoint import load_state, state_of, write_state
from strokeseg_tf.engine.history import mean_dice, to_csv
from strokeseg_tf.runs import Run
from tfrecord_tools.errors import InputError

#: Share of the time that writing may take, and the longest that finished epochs are kept in memory
#: alone: where epochs are short, not each of them is written.
TIME_SHARE, LONGEST_PAUSE_SECONDS = 0.02, 60.0


class RunRecorder(keras.callbacks.Callback):
    """Keeps the best model, the last state and the history; each file appears whole.

    Every epoch is kept in memory; the first is written, and of the others what `time_share`
    allows. `keep` writes what is not written yet: a kill costs what memory alone held, anything
    else nothing. The row of an epoch is written last: the last epoch that has a row has its
    checkpoint.

    Args:
        run: The run.
        network: What is saved as the best model.
        history: Rows of the epochs before; it is extended.
        time_share: Share of the time, in (0, 1], that writing may take.
    """

    def __init__(self, run: Run, network, history: list[dict], time_share=TIME_SHARE):
        super().__init__()
        self.history = history
        self._run = run
        self._network = network
        # Not written yet: the best weights, the state after the last epoch.
        self._best = self._state = None
        self._time_share, self._write_from = time_share, 0.0

    def restore(self, trainer):
        """Load the state after the last epoch of the history into a compiled, built model.

        Raises:
            InputError: It is not there, damaged, or of another version.
        """
        path = self._checkpoint()
        if not path.is_file():
            raise InputError(
                f"{self._run.folder} cannot be resumed: {path.name}, the state after its last "
                "epoch, is not there; another version wrote the run, or the file was removed; "
                "train anew with --overwrite"
            )
        load_state(trainer, path)

    def on_epoch_end(self, epoch, logs=None):
        row = {"epoch": epoch + 1} | {key: float(value) for key, value in logs.items()}
        best = max(map(mean_dice, self.history), default=-1.0)
        if mean_dice(row) > best:
            self._best = self._network.get_weights()
        self.history.append(row)
        self._state = state_of(self.model)
        if time.monotonic() >= self._write_from:
            self.keep()

    def on_train_end(self, logs=None):
        self.keep()

    def keep(self):
        """Write the epochs that are not written yet."""
        if self._state is None:
            return
        start = time.monotonic()
        if self._best:
            self._save_best()
        self._run.checkpoints.mkdir(exist_ok=True)
        checkpoint, text = self._checkpoint(), to_csv(self.history)
        _write_whole(checkpoint, lambda path: write_state(self._state, path))
        _write_whole(self._run.history_file, lambda path: path.write_text(text, encoding="utf-8"))
        # Earlier ones, and what a kill left half-written.
        for path in self._run.checkpoints.iterdir():
            if path != checkpoint:
                path.unlink()
        self._best = self._state = None
        end = time.monotonic()
        pause = (end - start) * (1 / self._time_share - 1)
        self._write_from = end + min(pause, LONGEST_PAUSE_SECONDS)

    def _save_best(self):
        latest = self._network.get_weights()
        self._network.set_weights(self._best)
        try:
            _write_whole(self._run.model_file, self._network.save)
        finally:
            self._network.set_weights(latest)

    def _checkpoint(self):
        return self._run.checkpoints / f"epoch-{len(self.history):05d}.npz"


def _write_whole(path: Path, write: Callable[[Path], object]):
    """Write a file beside its place, have it on the disk, and rename it into its place."""
    partial = path.with_name(f"partial-{path.name}")
    try:
        write(partial)
        with open(partial, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        # A full disk: the room is given back, what was saved before stays.
        partial.unlink(missing_ok=True)
