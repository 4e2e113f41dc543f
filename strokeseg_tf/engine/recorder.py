"""Keeps what an epoch brought: the best model, the last state, the row of the history."""

import os
from pathlib import Path

import keras

from strokeseg_tf.engine.history import mean_dice, to_csv
from strokeseg_tf.runs import Run
from tfrecord_tools.atomic import write_text


class RunRecorder(keras.callbacks.Callback):
    """Keeps the best model, the last state and the history; each file appears whole.

    The row of an epoch is written last: an epoch that has a row has its checkpoint.
    """

    def __init__(self, run: Run, network, history: list[dict]):
        super().__init__()
        self.history = history
        self._run = run
        self._network = network

    def restore(self, trainer):
        """Load the state after the last epoch of the history."""
        trainer.optimizer.build(trainer.trainable_variables)
        trainer.load_weights(self._checkpoint(len(self.history)))

    def on_epoch_end(self, epoch, logs=None):
        row = {"epoch": epoch + 1} | {key: float(value) for key, value in logs.items()}
        best = max(map(mean_dice, self.history), default=-1.0)
        if mean_dice(row) > best:
            _save_whole(self._run.model_file, self._network.save)
        self._run.checkpoints.mkdir(exist_ok=True)
        _save_whole(self._checkpoint(epoch + 1), self.model.save_weights)
        self.history.append(row)
        write_text(self._run.history_file, to_csv(self.history))
        self._checkpoint(epoch).unlink(missing_ok=True)

    def _checkpoint(self, epochs):
        return self._run.checkpoints / f"epoch-{epochs:05d}.weights.h5"


def _save_whole(path: Path, save):
    partial = path.with_name(f"partial-{path.name}")
    try:
        save(partial)
        os.replace(partial, path)
    finally:
        # A full disk: the room is given back, what was saved before stays.
        partial.unlink(missing_ok=True)
