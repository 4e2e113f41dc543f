"""A network -> probabilities for whole studies."""

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from strokeseg_tf.models.variants import modalities_of
from strokeseg_tf.prediction.inputs import check_study
from strokeseg_tf.preprocessing import preprocess, restore, volume_range


class NetworkPredictor:
    """Runs a model over whole studies.

    Args:
        model: A network of `strokeseg_tf.models` that gives logits.
        threshold: Probability above which a voxel is lesion.
        batch_size: Slices that go through the network at once.
        training_data: What its training studies look like, where that is known; see
            `strokeseg_tf.prediction.familiarity.summarise`.
        flips: Those it has learnt with, see `strokeseg_tf.config.AugmentationSettings`.
    """

    #: Only exports are numbered.
    version = None
    #: Studies at a time that keep it busy: one takes all cores.
    parallel = 1

    def __init__(
        self, model, *, threshold=0.5, batch_size=8, training_data=None, flips="left_right"
    ):
        self.modalities = modalities_of(model)
        self.threshold, self.training_data, self.flips = threshold, training_data, flips
        self.size = next(iter(model.input.values())).shape[1]
        self._batch_size = batch_size
        self._forward = tf.function(
            lambda inputs: {m: tf.cast(y, tf.float32) for m, y in model(inputs).items()},
            input_signature=[
                {m: tf.TensorSpec((None, self.size, self.size, 1)) for m in self.modalities}
            ],
        )

    def preprocess(self, images: Mapping[str, np.ndarray]) -> dict:
        """The network's input for a study's images `{modality: (slices, height, width)}`."""
        return {
            m: preprocess(volume, volume_range(volume), self.size)
            for m, volume in check_study(self.modalities, images).items()
        }

    def logits(self, inputs: Mapping) -> dict[str, np.ndarray]:
        """Logits `{modality: (slices, size, size, 1)}` of preprocessed inputs, in batches."""
        count = len(next(iter(inputs.values())))
        parts = [
            self._forward({m: x[i : i + self._batch_size] for m, x in inputs.items()})
            for i in range(0, count, self._batch_size)
        ]
        return {m: np.concatenate([part[m] for part in parts]) for m in self.modalities}

    def predict(self, images: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Probabilities for a study.

        Args:
            images: float32 `(slices, height, width)` by modality, in any unit, one shape.

        Returns:
            float32 `(slices, height, width)` in [0, 1] by modality.

        Raises:
            InputError: See `check_study`.
        """
        logits = self.logits(self.preprocess(images))
        return self.restore(logits, *images[self.modalities[0]].shape[1:])

    def restore(self, logits, height, width):
        """Probabilities on the study's slices from logits at the network's size."""
        return {
            m: restore(tf.sigmoid(values), height, width).numpy() for m, values in logits.items()
        }
