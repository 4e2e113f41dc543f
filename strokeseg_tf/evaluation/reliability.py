"""How closely repeated measurements of the same subjects agree: ICC, limits of agreement."""

from math import isfinite, nan, sqrt
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

#: Half the width of the limits of agreement, in standard deviations.
LIMIT_SD = 1.96

ICC_NAME = "ICC(2,1)"

#: Below this share of the largest value a sum of squares is the noise of the arithmetic.
_ROUNDING = 1e-12


def icc_absolute_agreement(ratings: ArrayLike, confidence: float = 0.95) -> dict[str, Any]:
    """ICC(2,1) of Shrout and Fleiss (1979): two-way random, single rating, absolute agreement.

    With the mean squares of subjects MSR (n - 1), raters MSC (k - 1) and residual MSE,
    ICC = (MSR - MSE) / (MSR + (k - 1) MSE + k (MSC - MSE) / n); the interval is that of ICC(A,1)
    in McGraw and Wong (1996), table 7.

    Args:
        ratings: (n subjects, k raters), finite, one unit.
        confidence: of the interval.

    Returns:
        `value`, `lower`, `upper` (None where undefined: fewer than two subjects, or no two
        ratings that differ; the interval alone where raters agree exactly, or where each gives one
        rating to all subjects) and `name`.

    Raises:
        ValueError: not 2-D, fewer than two raters, or a rating that is not finite.
    """
    ratings = np.asarray(ratings, float)
    if ratings.ndim != 2 or ratings.shape[1] < 2 or not np.isfinite(ratings).all():
        raise ValueError(
            "ratings must be finite numbers of shape (subjects, two or more raters). "
            f"Received shape {ratings.shape}."
        )
    n, k = ratings.shape
    undefined = {"value": None, "lower": None, "upper": None, "name": ICC_NAME}
    if n < 2 or np.ptp(ratings) == 0:
        return undefined
    rows, columns, rest = _mean_squares(ratings)
    value = (rows - rest) / (rows + (k - 1) * rest + k * (columns - rest) / n)
    lower, upper = _icc_interval(value, (rows, columns, rest), (n, k), confidence)
    return undefined | {"value": value, "lower": _or_none(lower), "upper": _or_none(upper)}


def _mean_squares(ratings: np.ndarray) -> tuple[float, float, float]:
    """Mean squares of subjects, raters and residual of a two-way table without repeats."""
    n, k = ratings.shape
    subject, rater = ratings.mean(axis=1, keepdims=True), ratings.mean(axis=0, keepdims=True)
    mean = ratings.mean()
    residual = ((ratings - subject - rater + mean) ** 2).sum()
    noise = _ROUNDING * (ratings**2).sum()
    squares = (
        k * ((subject - mean) ** 2).sum() / (n - 1),
        n * ((rater - mean) ** 2).sum() / (k - 1),
        residual / ((n - 1) * (k - 1)),
    )
    return tuple(float(square) if square > noise else 0.0 for square in squares)


def _icc_interval(value, squares, size, confidence) -> tuple[float, float]:
    (rows, columns, rest), (n, k) = squares, size
    if rest == 0 and (columns == 0 or value == 0):
        return nan, nan
    a = k * value / (n * (1 - value))
    b = 1 + k * value * (n - 1) / (n * (1 - value))
    freedom = (a * columns + b * rest) ** 2 / (
        (a * columns) ** 2 / (k - 1) + (b * rest) ** 2 / ((n - 1) * (k - 1))
    )
    share = (1 + confidence) / 2
    below = stats.f.ppf(share, n - 1, freedom)
    above = stats.f.ppf(share, freedom, n - 1)
    others = k * columns + (k * n - k - n) * rest
    lower = n * (rows - below * rest) / (below * others + n * rows)
    upper = n * (above * rows - rest) / (others + n * above * rows)
    return float(lower), float(upper)


def bland_altman(first: ArrayLike, second: ArrayLike, confidence: float = 0.95) -> dict[str, Any]:
    """Bias and limits of agreement of paired measurements (Bland and Altman 1986, 1999).

    d = first - second, bias = mean(d), limits = bias +- 1.96 sd(d). The standard error of the bias
    is sd / sqrt(n), that of a limit sd sqrt(1 / n + 1.96^2 / (2 (n - 1))) (1999, section 2.3; the
    1986 paper rounds it to sqrt(3 / n)); the intervals take t with n - 1 degrees of freedom.

    Args:
        first: n values; pairs in which either is NaN are left out.
        second: n values, in the same order.
        confidence: of the intervals.

    Returns:
        `n`, `bias`, `sd`, `lower` and `upper` limit, and `bias_ci`, `lower_ci`, `upper_ci` as
        [low, high], in the unit of the values; None (or [None, None]) where undefined.

    Raises:
        ValueError: `first` and `second` are not 1-D of one length.
    """
    differences = paired(first, second)
    n = differences.size
    bias = float(differences.mean()) if n else None
    result = {"n": n, "bias": bias, "sd": None, "lower": None, "upper": None}
    if n < 2:
        return result | {name: [None, None] for name in ("bias_ci", "lower_ci", "upper_ci")}
    sd = float(differences.std(ddof=1))
    t = float(stats.t.ppf((1 + confidence) / 2, n - 1))
    lower, upper = bias - LIMIT_SD * sd, bias + LIMIT_SD * sd
    of_bias = t * sd / sqrt(n)
    of_limit = t * sd * sqrt(1 / n + LIMIT_SD**2 / (2 * (n - 1)))
    return result | {
        "sd": sd,
        "lower": lower,
        "upper": upper,
        "bias_ci": [bias - of_bias, bias + of_bias],
        "lower_ci": [lower - of_limit, lower + of_limit],
        "upper_ci": [upper - of_limit, upper + of_limit],
    }


def paired(first: ArrayLike, second: ArrayLike) -> np.ndarray:
    """first - second of the pairs that both have, float64.

    Rounded to 12 decimals, so that differences that are equal on paper are equal.

    Raises:
        ValueError: `first` and `second` are not 1-D of one length.
    """
    first, second = np.asarray(first, float), np.asarray(second, float)
    if first.ndim != 1 or first.shape != second.shape:
        raise ValueError(
            "first and second must be 1-D and of one length. "
            f"Received shapes {first.shape} and {second.shape}."
        )
    differences = first - second
    return differences[np.isfinite(differences)].round(12)


def _or_none(value: float) -> float | None:
    return value if isfinite(value) else None
