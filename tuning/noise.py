"""What the default's repeats say about luck, so that noise is not sold as a find."""

import dataclasses
import math
import statistics
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Noise:
    """The default under several seeds.

    Attributes:
        mean: Of the objective.
        sd: Its standard deviation; None for fewer than two repeats.
        luck: What the best of as many candidates would be expected at if every one were as good as
            the default: mean + sd / sqrt(seeds) times the expected maximum of that many standard
            normal draws.
    """

    mean: float
    sd: float | None
    luck: float | None


def noise_of(scores: Sequence[float], candidates: int, seeds: int = 1) -> Noise | None:
    """The noise of the default, or None without repeats.

    Args:
        scores: The objective of each repeat.
        candidates: What the best was chosen from.
        seeds: Trainings that the score of a candidate is the mean of.
    """
    if not scores:
        return None
    mean = statistics.mean(scores)
    if len(scores) < 2:
        return Noise(mean, None, None)
    sd = statistics.stdev(scores)
    return Noise(mean, sd, mean + sd / math.sqrt(seeds) * expected_maximum(candidates))


def expected_maximum(count: int) -> float:
    """Of the largest of `count` standard normal draws, at least one."""
    from scipy.integrate import quad
    from scipy.stats import norm

    # The density of the maximum of independent draws.
    density = quad(lambda x: x * count * norm.pdf(x) * norm.cdf(x) ** (count - 1), -9, 9)
    return density[0]


def verdict(noise: Noise | None, best: float | None, kind: str = "trial") -> str:
    """One sentence on whether the search has found anything.

    Args:
        noise: Of the default.
        best: Score of the best candidate.
        kind: What the candidates are: `trial`, or `finalist`, whose score is a mean of repeats.
    """
    if noise is None or best is None:
        return "The default was not trained, so that nothing can be said about it."
    if best < noise.mean:
        return f"No {kind} was better than the default ({noise.mean:.3f}, best {best:.3f})."
    if noise.sd is None:
        return (
            f"The best {kind} has {best:.3f}, the default {noise.mean:.3f}; trained once, it says "
            "nothing about noise."
        )
    words = (
        f"The best {kind} has {best:.3f}, the default {noise.mean:.3f} with a standard deviation "
        f"of {noise.sd:.3f} between seeds; by luck alone the best of as many {kind}s would be "
        f"expected at {noise.luck:.3f}."
    )
    return words + ("" if best > noise.luck else " The find does not go beyond luck.")
