"""A network -> probabilities for whole studies."""

import functools
import math
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from strokeseg_tf.models.variants import modalities_of
from strokeseg_tf.prediction.inputs import check_study
from strokeseg_tf.preprocessing import preprocess, restore, volume_range

#: Slices at once, and the most numbers that a feature map of all of them may hold: 2 slices of the
#: full-size network, which then stays under 3 GiB with its weights; larger batches are no faster.
SLICES, MAP_ELEMENTS = 8, 8_000_000


class NetworkPredictor:
    """Runs a model over whole studies.

    Args:
        model: A network of `strokeseg_tf.models` that gives logits.
        threshold: Probability above which a voxel is lesion.
        batch_size: Most slices that go through the network at once; by default what keeps memory
            bounded, see `MAP_ELEMENTS`.
        training_data: What its training studies look like, where that is known; see
            `strokeseg_tf.prediction.familiarity.summarise`.
        frozen: Whether the weights become constants: faster, but blind to further training.
        flips: Those it has learnt with, see `strokeseg_tf.config.AugmentationSettings`.
    """

    #: Only exports are numbered.
    version = None
    #: Studies at a time that keep it busy: one takes all cores.
    parallel = 1

    def __init__(
        self,
        model,
        *,
        threshold=0.5,
        batch_size=None,
        training_data=None,
        flips="left_right",
        frozen=False,
    ):
        self.modalities = modalities_of(model)
        self.threshold, self.training_data, self.flips = threshold, training_data, flips
        self.size = next(iter(model.input.values())).shape[1]
        self._batch_size = batch_size or _batch_size(model)
        network = freeze(model) if frozen else functools.partial(model, training=False)
        slices = tf.TensorSpec((None, self.size, self.size, 1))
        forward = tf.function(
            lambda inputs: {m: tf.cast(y, tf.float32) for m, y in network(inputs).items()},
            input_signature=[dict.fromkeys(self.modalities, slices)],
        )
        # Of a concrete function the graph is kept, not the Python that made it.
        self._forward = forward.get_concrete_function() if frozen else forward

    def preprocess(self, images: Mapping[str, np.ndarray]) -> dict:
        """The network's input for a study's images `{modality: (slices, height, width)}`."""
        return {
            m: preprocess(volume, volume_range(volume), self.size)
            for m, volume in check_study(self.modalities, images).items()
        }

    def logits(self, inputs: Mapping, at_once: int | None = None) -> dict[str, np.ndarray]:
        """Logits of preprocessed inputs.

        Batches have one size, the last is filled up: the same slice then gives the same bits
        whatever its neighbours are, which it does not in batches of different sizes.

        Args:
            inputs: float32 `(slices, size, size, 1)` by modality.
            at_once: Slices a batch; by default as even as can be.

        Returns:
            float32 `(slices, size, size, 1)` by modality.
        """
        count = len(next(iter(inputs.values())))
        at_once = at_once or self._evenly(count)
        missing = [[0, -count % at_once], [0, 0], [0, 0], [0, 0]]
        inputs = {m: tf.pad(x, missing) for m, x in inputs.items()}
        parts = [
            self._forward({m: x[i : i + at_once] for m, x in inputs.items()})
            for i in range(0, count, at_once)
        ]
        return {m: np.concatenate([part[m] for part in parts])[:count] for m in self.modalities}

    def _evenly(self, count: int) -> int:
        """Slices a batch: 20 slices are three batches of 7, not of 8."""
        return -(-count // -(-count // self._batch_size))

    def predict(self, images: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Probabilities for a study.

        Slices that show nothing are computed once; the result is the same to the bit.

        Args:
            images: float32 `(slices, height, width)` by modality, in any unit, one shape.

        Returns:
            float32 `(slices, height, width)` in [0, 1] by modality.

        Raises:
            InputError: See `check_study`.
        """
        inputs = self.preprocess(images)
        count, height, width = images[self.modalities[0]].shape
        kept, place = distinct_slices([images[m] for m in self.modalities])
        inputs = {m: tf.gather(x, kept) for m, x in inputs.items()}
        logits = self.logits(inputs, self._evenly(count))
        return self.restore({m: values[place] for m, values in logits.items()}, height, width)

    def restore(self, logits, height, width):
        """Probabilities on the study's slices from logits at the network's size."""
        return {
            m: restore(tf.sigmoid(values), height, width).numpy() for m, values in logits.items()
        }


def distinct_slices(volumes) -> tuple[np.ndarray, np.ndarray]:
    """The slices to compute: of those that are constant in all images, one for each set of values.

    Args:
        volumes: Arrays `(slices, height, width)` of one study.

    Returns:
        `(kept, place)`: indices of slices to compute, and of each slice its place among them.
    """
    ends = np.stack([[v.min(axis=(1, 2)), v.max(axis=(1, 2))] for v in volumes])
    constant = (ends[:, 0] == ends[:, 1]).all(axis=0)
    first = {}
    same_as = [first.setdefault((*ends[:, 0, i],), i) if constant[i] else i
               for i in range(len(constant))]  # fmt: skip
    kept, place = np.unique(same_as, return_inverse=True)
    return kept, place


def _batch_size(model) -> int:
    largest = max(math.prod(layer.output.shape[1:]) for layer in model.layers)
    return min(max(MAP_ELEMENTS // largest, 1), SLICES)


def freeze(model):
    """A network's function with its weights as constants, which oneDNN then packs only once.

    Args:
        model: Functional Keras model.

    Returns:
        From a dictionary of tensors to a dictionary of tensors; it keeps no variable of the model.
    """
    parts = (model.trainable_variables, model.non_trainable_variables)
    weights = [[np.asarray(variable) for variable in part] for part in parts]

    def forward(inputs):
        # Inside: made outside they would be inputs of the graph, not constants in it.
        constants = ([tf.constant(weight) for weight in part] for part in weights)
        return model.stateless_call(*constants, inputs, training=False)[0]

    return forward
