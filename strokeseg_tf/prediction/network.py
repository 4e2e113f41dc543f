"""A network -> probabilities for whole studies."""

from collections.abc import Iterable, Mapping
from typing import Protocol

import numpy as np
from scipy.special import expit

from strokeseg_tf.prediction.inputs import check_study
from strokeseg_tf.prediction.preprocessing import preprocess, restore

#: Slices at once, and the most numbers that a feature map of all of them may hold: 2 slices of the
#: full-size network, which then stays under 3 GiB with its weights; larger batches are no faster.
SLICES, MAP_ELEMENTS = 8, 8_000_000


class Engine(Protocol):
    """What computes a network.

    Attributes:
        name: Software, its version, and the precision.
        modalities: What the network takes and gives.
        size: Height and width of its slices in pixels.
        batch_size: Most slices at once that keep memory bounded.
    """

    name: str
    modalities: tuple[str, ...]
    size: int
    batch_size: int

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Logits, float32 `(slices, size, size, 1)` by modality, of inputs of that shape."""


def preprocess_study(images: Mapping[str, np.ndarray], modalities, size: int) -> dict:
    """The input, by modality, of a network of this size for a study's images.

    Args:
        images: float32 `(slices, height, width)` by modality, in any unit.
        modalities: What the network takes.
        size: Height and width of its slices in pixels.

    Returns:
        float32 `(slices, size, size, 1)` by modality.

    Raises:
        InputError: See `check_study`.
    """
    return {m: preprocess(volume, size) for m, volume in check_study(modalities, images).items()}


class NetworkPredictor:
    """Runs a network over whole studies.

    Args:
        engine: What computes it.
        threshold: Probability above which a voxel is lesion.
        batch_size: Most slices that go through the network at once; by default the engine's.
        training_data: What its training studies look like, where that is known; see
            `strokeseg_tf.prediction.familiarity.summarise`.
        flips: Those it has learnt with, see `strokeseg_tf.config.AugmentationSettings`.
    """

    #: Only exports are numbered.
    version = None
    #: Studies at a time that keep it busy: one takes all cores.
    parallel = 1

    def __init__(
        self,
        engine: Engine,
        *,
        threshold: float = 0.5,
        batch_size: int | None = None,
        training_data: Mapping | None = None,
        flips: str = "left_right",
    ):
        self.engine, self.modalities, self.size = engine, engine.modalities, engine.size
        self.threshold, self.training_data, self.flips = threshold, training_data, flips
        self._batch_size = batch_size or engine.batch_size

    @property
    def computed_by(self) -> str:
        """Software, its version, and the precision."""
        return self.engine.name

    def preprocess(self, images: Mapping[str, np.ndarray]) -> dict:
        """The network's input for a study's images `{modality: (slices, height, width)}`."""
        return preprocess_study(images, self.modalities, self.size)

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
        inputs = {m: np.pad(x, missing) for m, x in inputs.items()}
        parts = [
            self.engine({m: x[i : i + at_once] for m, x in inputs.items()})
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
        inputs = {m: x[kept] for m, x in inputs.items()}
        logits = self.logits(inputs, self._evenly(count))
        return self.restore({m: values[place] for m, values in logits.items()}, height, width)

    def restore(self, logits, height, width):
        """Probabilities on the study's slices from logits at the network's size."""
        return {m: restore(expit(values), height, width) for m, values in logits.items()}


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


def batch_size_of(map_elements: Iterable[int]) -> int:
    """Slices at once that keep memory bounded.

    Args:
        map_elements: Values of each feature map of one slice.
    """
    return min(max(MAP_ELEMENTS // max(map_elements), 1), SLICES)
