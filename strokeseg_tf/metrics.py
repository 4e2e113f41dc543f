"""Overlap metrics that run while training; all on logits, on every Keras backend.

They pool the pixels of an epoch. Figures to report are per study and per rater: see
`strokeseg_tf.evaluation`.
"""

import math

import keras
from keras import ops


class Overlap(keras.metrics.Metric):
    """Base: true positive, reference and predicted pixels since the last reset.

    Args:
        threshold: Probability above which a pixel counts as lesion, in (0, 1).
        name: Name in the logs.

    Call arguments:
        y_true: Masks, 0 or 1, any shape and dtype.
        y_pred: Logits of the same shape.
    """

    def __init__(self, threshold=0.5, name=None):
        super().__init__(name=name or type(self).__name__.lower())
        self._cut = math.log(threshold / (1 - threshold))
        self._both = self.add_weight(name="both", initializer="zeros", dtype="float32")
        self._reference = self.add_weight(name="reference", initializer="zeros", dtype="float32")
        self._predicted = self.add_weight(name="predicted", initializer="zeros", dtype="float32")

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Count the pixels of a batch; `sample_weight` is not used."""
        reference = ops.cast(ops.cast(y_true, "bool"), "float32")
        predicted = ops.cast(y_pred > self._cut, "float32")
        self._both.assign_add(ops.sum(reference * predicted))
        self._reference.assign_add(ops.sum(reference))
        self._predicted.assign_add(ops.sum(predicted))


class Dice(Overlap):
    """2 |A and B| / (|A| + |B|); 1 where both are empty."""

    def result(self):
        return _share(2 * self._both, self._reference + self._predicted)


class Precision(Overlap):
    """|A and B| / |predicted|; 1 where nothing was predicted."""

    def result(self):
        return _share(self._both, self._predicted)


class Sensitivity(Overlap):
    """|A and B| / |reference|; 1 where there is no lesion."""

    def result(self):
        return _share(self._both, self._reference)


def _share(part, whole):
    return ops.where(whole > 0, part / ops.maximum(whole, 1.0), 1.0)


METRICS = {"dice": Dice, "precision": Precision, "sensitivity": Sensitivity}


def build_metrics(threshold, prefix=""):
    """A fresh metric of each kind for one head."""
    return [build(threshold, name=prefix + name) for name, build in METRICS.items()]
