"""What happens between the steps and the epochs of a training."""

import math
import time

import keras

from tfrecord_tools.errors import InputError


class EpochLogs(keras.callbacks.Callback):
    """Stops on a loss that is no number; adds `seconds` and `learning_rate` to epochs' logs."""

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch, self._start = epoch, time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        if not math.isfinite(logs["loss"]):
            raise InputError(
                f"the loss became {logs['loss']} in epoch {self._epoch + 1}, step {batch + 1}, at "
                f"a learning rate of {self._rate():.3g}; try a lower --learning-rate"
            )

    def on_epoch_end(self, epoch, logs=None):
        logs["learning_rate"] = self._rate()
        logs["seconds"] = time.perf_counter() - self._start

    def _rate(self):
        return float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))


class AveragedWeights(keras.callbacks.Callback):
    """Puts the running average of the weights in place, where there is one, between epochs.

    It is the average that is validated and kept; training goes on from the weights themselves.

    Args:
        swapped: Whether the average is in place when training starts, as in a checkpoint.
    """

    def __init__(self, swapped):
        super().__init__()
        self._swapped = swapped

    def on_epoch_begin(self, epoch, logs=None):
        if self._swapped:
            self._swap()

    def on_epoch_end(self, epoch, logs=None):
        self._swap()

    def _swap(self):
        optimiser = self.model.optimizer
        optimiser = getattr(optimiser, "inner_optimizer", optimiser)
        if optimiser.averages_weights:
            optimiser.swap_average()
            self._swapped = not self._swapped
