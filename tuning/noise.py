"""What the default's repeats say about luck, so that noise is not sold as a find."""

import dataclasses
import math
import statistics
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Noise:
    """The default under several seeds, and what luck makes of candidates that are no better.

    Attributes:
        mean: Of the objective, over the repeats that candidates are compared with.
        compared: How many these are.
        sd: Standard deviation between all repeats; None for fewer than two.
        repeats: How many these are.
        candidates: What the best was chosen from.
        seeds: Trainings that the score of a candidate is the mean of.
    """

    mean: float
    compared: int
    sd: float | None
    repeats: int
    candidates: int
    seeds: int

    @property
    def luck(self) -> float | None:
        """What the best candidate would be expected at if every one were as good as the default.

        The mean + sd / sqrt(seeds) times the expected maximum of as many standard normal draws.
        """
        if self.sd is None:
            return None
        return self.mean + self.sd / math.sqrt(self.seeds) * expected_maximum(self.candidates)

    def chance(self, best: float) -> float:
        """How often the best candidate would reach a score if each were as good as the default.

        1 - F(z)^candidates: z is the difference from the mean in its standard errors, F Student's
        distribution with `repeats` - 1 degrees of freedom. That all z have the default's mean and
        deviation in common is left out: the chance is an upper bound, of 20 candidates about three
        times too large. At least two repeats.
        """
        from scipy.stats import t

        error = self.sd * math.sqrt(1 / self.seeds + 1 / self.compared)
        if not error:
            return float(best <= self.mean)
        return -math.expm1(self.candidates * t.logcdf((best - self.mean) / error, self.repeats - 1))


def noise_of(
    scores: Sequence[float], candidates: int, seeds: int = 1, same: Sequence[float] = ()
) -> Noise | None:
    """The noise of the default, or None without repeats.

    Args:
        scores: The objective of each repeat.
        candidates: What the best was chosen from.
        seeds: Trainings that the score of a candidate is the mean of.
        same: The objective of the repeats that candidates are compared with, those under the same
            seeds; all of them by default.
    """
    if not scores:
        return None
    same = same or scores
    sd = statistics.stdev(scores) if len(scores) > 1 else None
    return Noise(statistics.mean(same), len(same), sd, len(scores), candidates, seeds)


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
    if noise is None:
        return "No training of the default has ended, so that nothing can be said about luck."
    if best is None:
        return f"No {kind} was trained to its end, so that there is nothing to compare."
    if best < noise.mean:
        return f"No {kind} was better than the default ({noise.mean:.3f}, best {best:.3f})."
    if noise.sd is None:
        return (
            f"The best {kind} has {best:.3f}, the default {noise.mean:.3f}; trained once, it says "
            "nothing about noise."
        )
    chance = noise.chance(best)
    often = "less than 0.1 %" if chance < 1e-3 else f"at most {100 * chance:.1f} %"
    number = f"{noise.candidates} {kind}s" if noise.candidates > 1 else f"one {kind}"
    return (
        f"The best {kind} has {best:.3f}, the default {noise.mean:.3f} with a standard deviation "
        f"of {noise.sd:.3f} between {noise.repeats} seeds. Of {number} no better than the default "
        f"the best would reach that by luck alone in {often} of searches."
    )
