"""Which of the searched parameters mattered."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from tuning.search_space import Choices, Range

#: Fewer trials say nothing.
MIN_TRIALS = 8


def importance(space: Mapping[str, Range | Choices], results: Sequence[Mapping]) -> dict | None:
    """Permutation importance (Breiman, 2001) of each parameter for the objective.

    A random forest learns the objective from the values; a parameter's importance is how much of
    the forest's R2 is lost when its values are shuffled among the trials.

    Args:
        space: Domains by name.
        results: Trials that have an objective.

    Returns:
        `parameters`: by name `(mean, standard deviation)` over 20 shuffles; `r2`: of the forest on
        trials that its trees have not seen, at most 1; at 0 or below it has learnt nothing and
        neither has a reader of the importance. None where the trials are too few.
    """
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.inspection import permutation_importance

    scores = [result["score"] for result in results]
    if len(results) < MIN_TRIALS or len(set(scores)) < 2:
        return None
    table = np.array([[place(space[n], r["values"][n]) for n in space] for r in results])
    forest = RandomForestRegressor(100, oob_score=True, random_state=0).fit(table, scores)
    found = permutation_importance(forest, table, scores, n_repeats=20, random_state=0)
    pairs = zip(found.importances_mean.tolist(), found.importances_std.tolist(), strict=True)
    return {"parameters": dict(zip(space, pairs, strict=True)), "r2": float(forest.oob_score_)}


def place(domain: Range | Choices, value) -> float:
    """Where a value lies in its domain, 0 to 1, as it is drawn."""
    if isinstance(domain, Choices):
        return domain.values.index(value) / (len(domain.values) - 1)
    scale = math.log if domain.sampling == "log" else float
    low, high = scale(domain.low), scale(domain.high)
    return (scale(value) - low) / (high - low)
