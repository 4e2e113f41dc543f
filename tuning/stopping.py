"""When a training of a trial ends early: decided from figures alone, so that it is repeatable."""

import dataclasses
import statistics
from collections.abc import Callable, Sequence

import keras


@dataclasses.dataclass(frozen=True)
class StoppingRules:
    """When to stop.

    Attributes:
        epochs: Epochs that are planned.
        stop_after: Epochs after which this round of Hyperband ends.
        patience: Epochs without a new best that end it; None for no end.
        others: Of earlier trials the objective of each epoch, for the median rule (Golovin et
            al., "Google Vizier", 2017): from half of the epochs on, and where at least
            `MIN_OTHERS` have come so far, a trial ends when its best epoch is below the median
            of their best epochs up to then. Empty for no pruning.
    """

    epochs: int
    stop_after: int
    patience: int | None = None
    others: Sequence[Sequence[float]] = ()

    #: Trials that a median needs.
    MIN_OTHERS = 5

    def reason(self, curve: Sequence[float]) -> str | None:
        """Why training ends after the epochs of `curve`: `complete`, `patience` or `median`."""
        done = len(curve)
        if done >= self.stop_after:
            return "complete"
        if not curve:
            return None
        if self.patience and done - 1 - curve.index(max(curve)) >= self.patience:
            return "patience"
        best = [max(other[:done]) for other in self.others if len(other) >= done]
        if 2 * done >= self.epochs and len(best) >= self.MIN_OTHERS:
            return "median" if max(curve) < statistics.median(best) else None
        return None


class EarlyEnd(keras.callbacks.Callback):
    """Ends a training by `StoppingRules`.

    Args:
        rules: The rules.
        value_of: The objective of an epoch from its logs.
        curve: The objective of the epochs before; it is extended.
        on_begin: Called with the number of each epoch, from 1, when it begins.
    """

    def __init__(
        self, rules: StoppingRules, value_of: Callable, curve: list[float], on_begin: Callable
    ):
        super().__init__()
        self._rules, self._value_of, self._curve = rules, value_of, curve
        self._on_begin = on_begin

    def on_epoch_begin(self, epoch, logs=None):
        self._on_begin(epoch + 1)

    def on_epoch_end(self, epoch, logs=None):
        self._curve.append(self._value_of(logs))
        if self._rules.reason(self._curve):
            self.model.stop_training = True
