"""What happens between the steps and the epochs of a training."""

import math
import sys
import time

import keras
import numpy as np

from strokeseg_tf.console import bars
from strokeseg_tf.engine.history import mean_dice
from tfrecord_tools.errors import InputError


class SeededDropout(keras.callbacks.Callback):
    """Makes dropout a function of (seed, epoch): checkpoints do not hold its random state.

    Args:
        seed: The run's seed.
        worker: Index of this worker: each drops others.
    """

    def __init__(self, seed, worker=0):
        super().__init__()
        self._seed = [seed, worker]

    def on_epoch_begin(self, epoch, logs=None):
        dropouts = [la for la in self.model.layers if isinstance(la, keras.layers.Dropout)]
        states = np.random.default_rng([*self._seed, epoch]).integers(
            0, 2**32, (len(dropouts), 2), dtype=np.uint32
        )
        for layer, state in zip(dropouts, states, strict=True):
            layer.seed_generator.state.assign(state)


class EpochLogs(keras.callbacks.Callback):
    """Stops on a loss that is no number; adds time, speed and learning rate to epochs' logs.

    Args:
        pairs: Slice pairs of an epoch.
        studies_of: `(epoch, step)`, from 0 -> the ids of the studies in that batch.
    """

    def __init__(self, pairs, studies_of):
        super().__init__()
        self._pairs = pairs
        self._studies_of = studies_of

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch, self._start = epoch, time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        self._trained = time.perf_counter()
        if not math.isfinite(logs["loss"]):
            studies = ", ".join(self._studies_of(self._epoch, batch))
            if batch:
                # Weights that a step has broken show in the loss of the next.
                before = ", ".join(self._studies_of(self._epoch, batch - 1))
                studies += f" (the step before: {before})"
            raise InputError(
                f"the loss became {logs['loss']} in epoch {self._epoch + 1}, step {batch + 1}, at "
                f"a learning rate of {self._rate():.3g}, on slices of {studies}; try a lower "
                "--learning-rate or look at these studies"
            )

    def on_epoch_end(self, epoch, logs=None):
        logs["learning_rate"] = self._rate()
        logs["slice_pairs_per_second"] = self._pairs / (self._trained - self._start)
        logs["seconds"] = time.perf_counter() - self._start

    def _rate(self):
        return float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))


class StepBar(keras.callbacks.Callback):
    """A bar over the steps of an epoch on standard error, where that is a terminal.

    A context manager too: whatever ends the training, the terminal is left as it was.

    Args:
        steps: Steps of an epoch.
        epochs: Epochs in all.
    """

    def __init__(self, steps, epochs):
        super().__init__()
        self._steps, self._epochs = steps, epochs
        self._bars = None

    def on_epoch_begin(self, epoch, logs=None):
        self._bars = bars(transient=True)
        self._bars.start()
        title = f"epoch {epoch + 1} of {self._epochs}"
        self._task = self._bars.add_task(title, total=self._steps)

    def on_train_batch_end(self, batch, logs=None):
        self._bars.update(self._task, completed=batch + 1)

    def on_epoch_end(self, epoch, logs=None):
        self.stop()

    def stop(self):
        """Take the bar away."""
        if self._bars:
            self._bars.stop()
            self._bars = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


class EpochLine(keras.callbacks.Callback):
    """A line an epoch on standard error: loss, Dice, speed and the time that is left.

    Args:
        epochs: Epochs in all.
        history: Rows of the epochs before.
    """

    def __init__(self, epochs, history):
        super().__init__()
        self._epochs = epochs
        self._best = max(map(mean_dice, history), default=-1.0)
        self._seconds = []

    def on_epoch_end(self, epoch, logs=None):
        self._seconds.append(logs["seconds"])
        # The first epoch traces the step: it says little of the others.
        usual = self._seconds[1:] or self._seconds
        left = sum(usual) / len(usual) * (self._epochs - epoch - 1)
        dices = "  ".join(
            f"{m.upper()} {logs[f'val_{m}_dice']:.3f}"
            for m in ("adc", "dwi")
            if f"val_{m}_dice" in logs
        )
        better = mean_dice(logs) > self._best
        self._best = max(self._best, mean_dice(logs))
        print(
            f"epoch {epoch + 1}/{self._epochs}  loss {logs['loss']:.4f}  Dice {dices}"
            f"{' (best)' if better else ''}  {logs['slice_pairs_per_second']:.0f} pairs/s"
            f"  {_duration(left)} left",
            file=sys.stderr,
            flush=True,
        )


def _duration(seconds) -> str:
    hours, minutes = divmod(math.ceil(seconds / 60), 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


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
