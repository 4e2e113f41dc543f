"""Several predictions of a study made one: by several models, and of the study in mirrors."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from strokeseg_tf.prediction.familiarity import narrowest
from tfrecord_tools.errors import InputError
from tfrecord_tools.study_files import MODALITIES

#: Axes of [slice, height, width] along which a study is mirrored, by the flips of training.
#: Height runs from right to left: whatever a model has learnt, a head looks much the same then.
MIRRORS = {
    "none": ((), (1,)),
    "left_right": ((), (1,)),
    "both": ((), (1,), (2,), (1, 2)),
}


class Ensemble:
    """Predicts as its members do together; same interface as each of them.

    Probabilities are means over the members that give the modality, and of each member over the
    mirrors. In a vote each member marks what is above its own threshold, and the probability is
    the share of members that mark a voxel: lesion is what more than half of them mark.

    Args:
        members: Predictors, see `strokeseg_tf.loading.load_predictor`.
        vote: Vote instead of taking the mean.
        mirrored: Predict each study in mirrors too: left-right, and front-back where the model
            learnt with such flips.
    """

    #: Only exports are numbered.
    version = None

    def __init__(self, members: Sequence, *, vote: bool = False, mirrored: bool = False):
        self._members = tuple(members)
        self._vote, self._mirrored = vote, mirrored
        wanted = {modality for member in members for modality in member.modalities}
        self.modalities = tuple(m for m in MODALITIES if m in wanted)
        self.thresholds = [member.threshold for member in members]
        self.threshold = 0.5 if vote else float(np.mean(self.thresholds))
        self.computed_by = "; ".join(dict.fromkeys(member.computed_by for member in members))
        self.parallel = min(member.parallel for member in members)
        trainings = [getattr(member, "training_data", None) for member in members]
        self.training_data = narrowest([t for t in trainings if t])

    def close(self) -> None:
        """End the connections of members on servers."""
        for member in self._members:
            if hasattr(member, "close"):
                member.close()

    def predict(self, images: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """See `strokeseg_tf.prediction.network.NetworkPredictor.predict`."""
        return self.predict_with_spread(images)[0]

    def predict_with_spread(self, images):
        """Probabilities, and how much the predictions behind them differ.

        Args:
            images: float32 `(slices, height, width)` by modality.

        Returns:
            `(probabilities, spread)` by modality, float32 `(slices, height, width)`: in [0, 1], and
            the standard deviation over all members and mirrors, in [0, 0.5].

        Raises:
            InputError: See `strokeseg_tf.prediction.inputs.check_study`.
        """
        all_of = {m: _Moments() for m in self.modalities}
        joint = {m: _Moments() for m in self.modalities}
        for member in self._members:
            own = {m: _Moments() for m in member.modalities}
            for probabilities in self._in_mirrors(member, images):
                for m, probability in probabilities.items():
                    own[m].add(probability)
                    all_of[m].add(probability)
            for m, moments in own.items():
                mean = moments.mean
                joint[m].add((mean > member.threshold).astype(np.float32) if self._vote else mean)
        return (
            {m: moments.mean for m, moments in joint.items()},
            {m: moments.deviation for m, moments in all_of.items()},
        )

    def _in_mirrors(self, member, images) -> Iterator[dict[str, np.ndarray]]:
        flips = getattr(member, "flips", "left_right")
        for axes in MIRRORS[flips] if self._mirrored else ((),):
            seen = {m: np.flip(volume, axes) for m, volume in images.items()}
            yield {m: np.flip(p, axes) for m, p in member.predict(seen).items()}


class _Moments:
    """Mean and standard deviation of arrays that come one by one (Welford's recurrence)."""

    def __init__(self):
        self.count, self.mean, self._squares = 0, None, None

    def add(self, value: np.ndarray) -> None:
        self.count += 1
        if self.count == 1:
            self.mean, self._squares = value, np.zeros_like(value)
            return
        change = value - self.mean
        self.mean = self.mean + change / self.count
        self._squares = self._squares + change * (value - self.mean)

    @property
    def deviation(self) -> np.ndarray:
        return np.sqrt(np.maximum(self._squares, 0) / self.count)


def check_members(members: Sequence, vote: bool) -> None:
    """Refuse a vote that cannot be won.

    Raises:
        InputError: It has fewer than three members.
    """
    if vote and len(members) < 3:
        raise InputError(
            f"a vote needs three models, received {len(members)}; name more with --ensemble"
        )


def combine(members: Sequence, *, vote: bool = False, mirrored: bool = False):
    """One predictor of several; a single one stays what it is unless it looks in mirrors."""
    check_members(members, vote)
    if len(members) == 1 and not mirrored:
        return members[0]
    return Ensemble(members, vote=vote, mirrored=mirrored)
