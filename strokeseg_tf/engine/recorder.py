"""Keeps what an epoch brought: the best model, the last state, the row of the history."""

import os
import time
from pathlib import Path

import keras

from strokeseg_tf.engine.checkpoint import load_state, save_state
from strokeseg_tf.engine.history import mean_dice, to_csv
from strokeseg_tf.runs import Run
from tfrecord_tools.atomic import write_text
from tfrecord_tools.errors import InputError

#: Share of the time that writing may take: where epochs are short, not each of them is written. A
#: kill then costs at most 50 times what writing costs, half a minute of a small network.
TIME_SHARE = 0.02


class RunRecorder(keras.callbacks.Callback):
    """Keeps the best model, the last state and the history; each file appears whole.

    The row of an epoch is written last: the last epoch that has a row has its checkpoint. The
    first epoch is kept, the last one too, and of those between what `time_share` allows.

    Args:
        run: The run.
        network: What is saved as the best model.
        history: Rows of the epochs before; it is extended.
        time_share: Share of the time, in (0, 1], that keeping may take.
    """

    def __init__(self, run: Run, network, history: list[dict], time_share=TIME_SHARE):
        super().__init__()
        self.history = history
        self._run = run
        self._network = network
        self._best = None
        self._kept = len(history)
        self._time_share, self._keep_from = time_share, 0.0

    def restore(self, trainer):
        """Load the state after the last epoch of the history.

        Raises:
            InputError: It is not there, or of another version.
        """
        path = self._checkpoint(len(self.history))
        if not path.is_file():
            raise InputError(
                f"{self._run.folder} cannot be resumed: {path.name}, the state after its last "
                "epoch, is not there; another version wrote the run, or the file was removed; "
                "train anew with --overwrite"
            )
        trainer.optimizer.build(trainer.trainable_variables)
        load_state(trainer, path)

    def on_epoch_end(self, epoch, logs=None):
        row = {"epoch": epoch + 1} | {key: float(value) for key, value in logs.items()}
        best = max(map(mean_dice, self.history), default=-1.0)
        if mean_dice(row) > best:
            self._best = self._network.get_weights()
        self.history.append(row)
        if time.monotonic() >= self._keep_from:
            self._keep()

    def on_train_end(self, logs=None):
        if len(self.history) > self._kept:
            self._keep()

    def _keep(self):
        start, epochs = time.monotonic(), len(self.history)
        self._save_best()
        self._run.checkpoints.mkdir(exist_ok=True)
        _save_whole(self._checkpoint(epochs), lambda path: save_state(self.model, path))
        write_text(self._run.history_file, to_csv(self.history))
        self._checkpoint(self._kept).unlink(missing_ok=True)
        self._kept, end = epochs, time.monotonic()
        self._keep_from = end + (end - start) * (1 / self._time_share - 1)

    def _save_best(self):
        """Save the network with the best weights, where there are better ones than those saved."""
        if self._best:
            latest = self._network.get_weights()
            self._network.set_weights(self._best)
            _save_whole(self._run.model_file, self._network.save)
            self._network.set_weights(latest)
            self._best = None

    def _checkpoint(self, epochs):
        return self._run.checkpoints / f"epoch-{epochs:05d}.npz"


def _save_whole(path: Path, save):
    partial = path.with_name(f"partial-{path.name}")
    try:
        save(partial)
        os.replace(partial, path)
    finally:
        # A full disk: the room is given back, what was saved before stays.
        partial.unlink(missing_ok=True)
