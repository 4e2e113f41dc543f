"""Whether paired scores differ: t-test, Wilcoxon, effect size, bootstrap intervals, Holm."""

from collections.abc import Sequence
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from strokeseg_tf.evaluation.reliability import paired

RESAMPLES, SEED = 10_000, 0

#: Up to so many differences without ties Wilcoxon's p is exact.
_EXACT = 50

#: Resampled values held at once.
_BLOCK = 1 << 18


def compare_paired(first: ArrayLike, second: ArrayLike, confidence: float = 0.95) -> dict[str, Any]:
    """Compares two scores of the same studies; every p is two-sided.

    d = first - second over the n studies for which both are defined.

    Returns:
        `n`; `mean_difference` and `ci`, its Student interval [low, high]; `effect_size`: Cohen's
        d_z = mean(d) / sd(d); `t`: `statistic`, `df`, `p`; `wilcoxon`: `statistic` (the smaller
        sum of ranks, differences of zero dropped), `p`, and `method`: exact up to 50 differences
        without ties, else the normal approximation. What is undefined is None: everything but the
        mean where n < 2; t and d_z where all d are equal. Where all d are zero both p are 1.

    Raises:
        ValueError: `first` and `second` are not 1-D of one length.
    """
    d = paired(first, second)
    n, mean = d.size, float(d.mean()) if d.size else None
    result = {"n": n, "mean_difference": mean, "ci": [None, None], "effect_size": None}
    result["t"] = {"statistic": None, "df": max(n - 1, 0), "p": None}
    result["wilcoxon"] = _wilcoxon(d)
    if n < 2:
        return result
    sd = float(d.std(ddof=1)) if np.ptp(d) else 0.0
    margin = float(stats.t.ppf((1 + confidence) / 2, n - 1)) * sd / sqrt(n)
    result["ci"] = [mean - margin, mean + margin]
    if sd:
        test = stats.ttest_1samp(d, 0)
        result["effect_size"] = mean / sd
        result["t"] |= {"statistic": float(test.statistic), "p": float(test.pvalue)}
    elif mean == 0:
        result["t"]["p"] = 1.0
    return result


def _wilcoxon(d: np.ndarray) -> dict[str, Any]:
    if d.size < 2:
        return {"statistic": None, "p": None, "method": None}
    d = d[d != 0]
    if not d.size:
        return {"statistic": 0.0, "p": 1.0, "method": "exact"}
    exact = d.size <= _EXACT and np.unique(np.abs(d)).size == d.size
    test = stats.wilcoxon(d, method="exact" if exact else "approx")
    method = "exact" if exact else "normal approximation"
    return {"statistic": float(test.statistic), "p": float(test.pvalue), "method": method}


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's (1979) adjusted p: p_(i), in rising order, becomes max of (m - j + 1) p_(j), j <= i.

    Args:
        p_values: of one family of m tests; None for a test that could not be made, which does not
            count and stays None.

    Returns:
        Adjusted p in the order given, at most 1.
    """
    order = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, place) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p))
        adjusted[place] = largest
    return adjusted


def bootstrap_intervals(
    columns: ArrayLike,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> np.ndarray:
    """Percentile bootstrap intervals of means (Efron 1979), the same for the same seed.

    Args:
        columns: (n studies, m scores), finite; the scores share the draws.
        confidence: of the intervals.
        resamples: how often n studies are drawn with replacement.
        seed: of the draws.

    Returns:
        float64 (2, m): lower and upper ends; NaN where n < 2.

    Raises:
        ValueError: `columns` is not 2-D, or holds a number that is not finite.
    """
    columns = np.asarray(columns, float)
    if columns.ndim != 2 or not np.isfinite(columns).all():
        raise ValueError(
            f"columns must be finite numbers of shape (n, m). Received shape {columns.shape}."
        )
    if len(columns) < 2:
        return np.full((2, columns.shape[1]), np.nan)
    means = _resampled_means(columns, resamples, seed)
    return np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)


def _resampled_means(columns: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    n = len(columns)
    draws, done = np.random.default_rng(seed), 0
    means = np.empty((resamples, columns.shape[1]))
    while done < resamples:
        block = min(resamples - done, max(1, _BLOCK // n))
        rows = draws.integers(n, size=(block, n))
        # How often each study was drawn: one product gives the sums of all columns.
        places = rows + np.arange(block)[:, None] * n
        counts = np.bincount(places.ravel(), minlength=block * n).reshape(block, n)
        means[done : done + block] = counts @ columns / n
        done += block
    return means
