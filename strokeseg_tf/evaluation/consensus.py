"""One reference mask out of the masks of several raters: majority vote, or STAPLE."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from strokeseg_tf.evaluation.scores import as_mask

#: STAPLE stops when no sensitivity or specificity moves by more than this.
TOLERANCE, MOST_STEPS = 1e-10, 10_000

MOST_RATERS = 20

#: Where Warfield et al. start: raters that are nearly always right.
_START = 0.99999


@dataclass(frozen=True, eq=False)
class Staple:
    """What STAPLE finds about a study's raters.

    Attributes:
        probability: float64, the shape of the masks: that a voxel is lesion, given every mask.
        sensitivity: by rater, P(drawn | lesion); NaN where nobody drew anything.
        specificity: by rater, P(not drawn | no lesion); NaN where everybody drew everything.
        steps: iterations of the EM algorithm; `MOST_STEPS` where it had not converged.
    """

    probability: np.ndarray
    sensitivity: np.ndarray
    specificity: np.ndarray
    steps: int

    @property
    def mask(self) -> np.ndarray:
        """The consensus: bool, True where lesion is more probable than not, to six digits."""
        return self.probability > 0.5 + 1e-6


def majority_vote(masks: Sequence[ArrayLike]) -> np.ndarray:
    """Voxels that more than half of the raters drew; a tie is background.

    Args:
        masks: 3-D masks of one shape, one per rater, at least one.

    Returns:
        bool mask of that shape. Of two raters it is what both drew.

    Raises:
        ValueError: no mask, or masks not 3-D, not of one shape, or with anything but 0 and 1.
    """
    masks = _as_masks(masks)
    votes = np.zeros(masks[0].shape, np.uint16)
    for mask in masks:
        votes += mask
    return votes * 2 > len(masks)


def staple(masks: Sequence[ArrayLike]) -> Staple:
    """STAPLE (Warfield, Zou and Wells 2004) for binary masks, by expectation and maximisation.

    With sensitivity p_j and specificity q_j of rater j and the prior f, a voxel's probability is
    W = f a / (f a + (1 - f) b), where a is the product of p_j over who drew the voxel and 1 - p_j
    over who did not, b that of 1 - q_j and q_j. Then p_j and q_j become the shares of W, and of
    1 - W, on which rater j said so. f is the share of drawn voxels over all masks, as in the
    paper; no Markov field. So the result depends on how much background the volume holds.

    Args:
        masks: 3-D masks of one shape, one per rater, 2 to `MOST_RATERS`.

    Raises:
        ValueError: too few or too many masks, or masks not 3-D, not of one shape, or with anything
            but 0 and 1.
    """
    masks = _as_masks(masks)
    if not 2 <= len(masks) <= MOST_RATERS:
        raise ValueError(f"STAPLE needs 2 to {MOST_RATERS} masks. Received {len(masks)}.")
    # Voxels on which the same raters agree are alike: all work is on the few patterns there are.
    codes = np.zeros(masks[0].shape, np.int32)
    for place, mask in enumerate(masks):
        codes |= mask.astype(np.int32) << place
    voxels = np.bincount(codes.ravel())
    found = np.flatnonzero(voxels)
    drawn = (found[:, None] >> np.arange(len(masks)) & 1).astype(bool)
    weight, sensitivity, specificity, steps = _maximise(drawn, voxels[found])
    by_code = np.zeros(len(voxels))
    by_code[found] = weight
    return Staple(by_code[codes], sensitivity, specificity, steps)


def _maximise(drawn: np.ndarray, voxels: np.ndarray):
    """The EM algorithm.

    Args:
        drawn: bool (patterns, raters).
        voxels: how many voxels show each pattern.

    Returns:
        P(lesion) by pattern, sensitivity and specificity by rater, steps.
    """
    prior = (voxels @ drawn).sum() / (voxels.sum() * drawn.shape[1])
    if prior in (0, 1):  # Nobody drew anything, or everybody everything.
        right, unknown = np.ones(drawn.shape[1]), np.full(drawn.shape[1], np.nan)
        rates = (right, unknown) if prior else (unknown, right)
        return np.full(len(voxels), float(prior)), *rates, 0
    sensitivity = specificity = np.full(drawn.shape[1], _START)
    steps, change = 0, 1.0
    while change > TOLERANCE and steps < MOST_STEPS:
        lesion = prior * np.where(drawn, sensitivity, 1 - sensitivity).prod(axis=1)
        tissue = (1 - prior) * np.where(drawn, 1 - specificity, specificity).prod(axis=1)
        weight = lesion / (lesion + tissue)
        before = sensitivity, specificity
        sensitivity = _share(voxels * weight, drawn, sensitivity)
        specificity = _share(voxels * (1 - weight), ~drawn, specificity)
        change = np.abs(np.subtract(before, (sensitivity, specificity))).max()
        steps += 1
    return weight, sensitivity, specificity, steps


def _share(weights: np.ndarray, said: np.ndarray, before: np.ndarray) -> np.ndarray:
    """Share of the weights on which each rater said so, kept off 0 and 1 by the last digit.

    Two raters who are never wrong and contradict each other would leave 0 / 0. Where there is no
    weight at all (every voxel is lesion for certain, or none) nothing is learnt: as before.
    """
    if not weights.sum():
        return before
    return np.clip(weights @ said / weights.sum(), 1e-15, 1 - 1e-15)


def _as_masks(masks: Sequence[ArrayLike]) -> list[np.ndarray]:
    masks = [as_mask(mask, f"mask {number}") for number, mask in enumerate(masks, 1)]
    shapes = sorted({mask.shape for mask in masks})
    if len(shapes) != 1:
        found = ", ".join(map(str, shapes)) or "no mask"
        raise ValueError(f"masks must be one or more of one shape. Received {found}.")
    return masks


CONSENSUS: dict[str, Callable[[Sequence[ArrayLike]], np.ndarray]] = {
    "majority": majority_vote,
    "staple": lambda masks: staple(masks).mask,
}


def add_consensus(
    references: Mapping[tuple[str, str], np.ndarray], method: str
) -> dict[tuple[str, str], np.ndarray]:
    """The masks of a study and, as one rater more, their consensus on each modality.

    Args:
        references: masks by (rater, modality), one shape.
        method: key of `CONSENSUS`, and the name of the new rater.

    Returns:
        The masks, and (method, modality) for each modality that two raters or more have drawn on.

    Raises:
        ValueError: unknown method, or a rater of that name.
    """
    if method not in CONSENSUS:
        raise ValueError(f"consensus must be one of {', '.join(CONSENSUS)}. Received {method!r}.")
    if any(rater == method for rater, _ in references):
        raise ValueError(f"no rater may be called {method!r}: that is the name of the consensus.")
    added = dict(references)
    for modality in sorted({modality for _, modality in references}):
        masks = [references[key] for key in sorted(references) if key[1] == modality]
        if len(masks) > 1:
            added[method, modality] = CONSENSUS[method](masks)
    return added
