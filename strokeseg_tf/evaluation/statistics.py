"""The statistics of an evaluation: runs against each other and against the raters.

Everything here is over stroke studies: a control that is left empty scores 1 under most
conventions, whatever the run, and controls are reported apart. A study enters where both scores
are defined.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from math import inf, isfinite
from typing import Any

import numpy as np

from strokeseg_tf.evaluation.comparison import (
    RESAMPLES,
    SEED,
    bootstrap_intervals,
    compare_paired,
    holm,
)
from strokeseg_tf.evaluation.reliability import bland_altman
from strokeseg_tf.evaluation.scores import SCORE_KEYS
from strokeseg_tf.evaluation.table import CONTROL, TABLE1_METRICS, Row

#: Lesion volumes: name, lower edge (included) and upper edge (not) in ml.
SIZE_BINS = (
    ("under 1 ml", 0.0, 1.0),
    ("1 to 5 ml", 1.0, 5.0),
    ("5 to 20 ml", 5.0, 20.0),
    ("20 ml and more", 20.0, inf),
)
INTERVAL_METRICS = tuple(key for key in SCORE_KEYS if not key.endswith("_volume_ml"))
INTERVAL_METHOD = f"bootstrap percentile, {RESAMPLES} resamples of studies, seed {SEED}"

METHODS = (
    "Statistics are over stroke studies; controls are reported apart. A study enters a comparison "
    "where both scores are defined.",
    "Between runs and against the raters: paired two-sided t-test and Wilcoxon's signed-rank test "
    "(differences of zero dropped; exact up to 50 differences without ties), the mean difference "
    "with its 95 % Student interval, and Cohen's d_z = mean / standard deviation of the "
    "differences.",
    "Holm's correction is over a family of tests: all comparisons of one metric between runs "
    "(every pair of runs, modality and rater) are one family, all comparisons with the raters "
    "another, t-tests and Wilcoxon tests apart.",
    "Against the raters: the Dice of a run with a rater minus the Dice between that rater and "
    "another on the same studies. p > 0.05 does not show that both are equal.",
    "Bland-Altman: bias and limits (bias ± 1.96 standard deviations) of those same differences, "
    "with 95 % intervals (Bland and Altman 1999).",
    f"Intervals of means: 95 %, {INTERVAL_METHOD}.",
    "Lesion sizes: studies by the volume that the rater drew; studies on which the rater drew "
    "nothing are left out. Missed: not one voxel of the lesion was marked.",
)

_Scores = dict[tuple[str, str, str], dict[str, Row]]  # rows by run, modality, rater; then by study


def run_statistics(rows: Iterable[Row], agreement: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """All statistics of an evaluation, ready for JSON (undefined numbers are None).

    Args:
        rows: rows of the score table.
        agreement: rows of `agreement.study_agreement`; those between raters give the reference
            Dice.

    Returns:
        `methods` (sentences); `between_runs`, `against_raters` (see `comparison.compare_paired`,
        with `p_holm` beside each p), `bland_altman` (with `points`), `intervals` and `sizes`.
    """
    pools: _Scores = {}
    for row in rows:
        if row["group"] != CONTROL:
            key = row["run"], row["modality"], row["rater"]
            pools.setdefault(key, {})[row["study"]] = row
    references = _reference_dice(agreement)
    return {
        "methods": list(METHODS),
        "between_runs": _between_runs(pools),
        "against_raters": _against_raters(pools, references),
        "bland_altman": _bland_altman(pools, references),
        "intervals": _intervals(pools),
        "sizes": _sizes(pools),
    }


def _reference_dice(agreement: Iterable[Mapping[str, Any]]) -> dict[tuple, dict[str, float]]:
    """Dice by study of each (modality, first rater, second rater)."""
    found: dict[tuple, dict[str, float]] = {}
    for row in agreement:
        if row["kind"] == "raters":
            found.setdefault((row["modality"], *row["pair"]), {})[row["study"]] = row["dice"]
    return found


def _between_runs(pools: _Scores) -> list[dict[str, Any]]:
    entries = []
    for modality, rater in dict.fromkeys(key[1:] for key in pools):
        runs = [run for run, *rest in pools if (modality, rater) == tuple(rest)]
        for (one, other), metric in _product(combinations(runs, 2), TABLE1_METRICS):
            first, second = pools[one, modality, rater], pools[other, modality, rater]
            pairs = [(row[metric], second[s][metric]) for s, row in first.items() if s in second]
            if pairs:
                labels = {"modality": modality, "rater": rater, "first": one, "second": other}
                compared = compare_paired(*np.transpose(pairs))
                entries.append({**labels, "metric": metric, **compared})
    return _corrected(entries)


def _product(pairs: Iterable, metrics: Sequence[str]) -> Iterable:
    return [(pair, metric) for pair in pairs for metric in metrics]


def _against_raters(pools: _Scores, references: Mapping) -> list[dict[str, Any]]:
    return _corrected(
        [
            {**labels, "metric": "dice", **compare_paired(own, reference)}
            for labels, _, own, reference in _beside_raters(pools, references)
        ]
    )


def _bland_altman(pools: _Scores, references: Mapping) -> list[dict[str, Any]]:
    entries = []
    for labels, studies, own, reference in _beside_raters(pools, references):
        points = [
            {"study": study, "mean": (a + b) / 2, "difference": a - b}
            for study, a, b in zip(studies, own, reference, strict=True)
        ]
        entries.append({**labels, **bland_altman(own, reference), "points": points})
    return entries


def _beside_raters(pools: _Scores, references: Mapping):
    """For each run and rater, and each pair of raters with that one in it, the Dice of both.

    Yields:
        labels, study ids, Dice of the run with the rater, Dice between the raters.
    """
    for (run, modality, rater), rows in pools.items():
        for (drawn_on, *pair), reference in references.items():
            if drawn_on != modality or rater not in pair:
                continue
            both = [
                (study, row["dice"], reference[study])
                for study, row in rows.items()
                if study in reference and isfinite(row["dice"]) and isfinite(reference[study])
            ]
            if both:
                labels = {"run": run, "modality": modality, "rater": rater, "pair": pair}
                yield labels, *zip(*both, strict=True)


def _corrected(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Adds `p_holm`; the family: all entries of one metric, each test apart."""
    for metric in {entry["metric"] for entry in entries}:
        family = [entry for entry in entries if entry["metric"] == metric]
        for test in ("t", "wilcoxon"):
            adjusted = holm([entry[test]["p"] for entry in family])
            for entry, p in zip(family, adjusted, strict=True):
                entry[test]["p_holm"] = p
    return entries


def _intervals(pools: _Scores) -> list[dict[str, Any]]:
    entries = []
    for (run, modality, rater), rows in pools.items():
        table = np.array([[row[key] for key in INTERVAL_METRICS] for row in rows.values()], float)
        for metric, moments in zip(INTERVAL_METRICS, _mean_intervals(table), strict=True):
            labels = {"run": run, "modality": modality, "rater": rater, "metric": metric}
            entries.append({**labels, **moments, "method": INTERVAL_METHOD})
    return entries


def _mean_intervals(table: np.ndarray) -> list[dict[str, Any]]:
    """Of each column the mean of what is defined, and its 95 % interval.

    Columns that are defined for the same studies share the draws, which take most of the time.
    """
    found: list[dict[str, Any]] = [{}] * table.shape[1]
    defined = np.isfinite(table)
    for pattern in np.unique(defined, axis=1).T:
        columns = np.flatnonzero((defined == pattern[:, None]).all(axis=0))
        values, n = table[pattern][:, columns], int(pattern.sum())
        ends = bootstrap_intervals(values)
        for place, column in enumerate(columns):
            lower, upper = (float(end) if n > 1 else None for end in ends[:, place])
            mean = float(values[:, place].mean()) if n else None
            found[column] = {"n": n, "mean": mean, "lower": lower, "upper": upper}
    return found


def _sizes(pools: _Scores) -> list[dict[str, Any]]:
    entries = []
    for (run, modality, rater), rows in pools.items():
        drawn = [row for row in rows.values() if row["reference_volume_ml"] > 0]
        for name, low, high in SIZE_BINS:
            inside = [row for row in drawn if low <= row["reference_volume_ml"] < high]
            entries.append(
                {
                    **{"run": run, "modality": modality, "rater": rater, "bin": name},
                    "low_ml": low,
                    "high_ml": high if isfinite(high) else None,
                    "studies": len(inside),
                    **{key: _moments(inside, key) for key in ("dice", "sensitivity")},
                    "missed": sum(bool(row["sensitivity"] == 0) for row in inside),
                }
            )
    return entries


def _moments(rows: Sequence[Row], metric: str) -> dict[str, float | None]:
    values = [row[metric] for row in rows if isfinite(row[metric])]
    return {
        "mean": float(np.mean(values)) if values else None,
        "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None,
    }
