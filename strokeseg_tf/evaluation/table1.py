"""Table 1 of the paper, with the user's runs beside its rows."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from strokeseg_tf.evaluation.table import TABLE1_METRICS, plus_minus, rater_title

VARIANT_TITLES = {
    "unimodal": "Unimodal",
    **{f"dual_v{n}": f"Dual V{n}" for n in (1, 2, 3)},
    "stored": "Stored masks",
}

# (modality, variant): mean and +- of Dice, precision, sensitivity against R1, then against R2.
_PUBLISHED = {
    ("adc", "unimodal"): "0.28 0.30 0.66 0.43 0.15 0.18 0.32 0.30 0.60 0.46 0.17 0.19",
    ("adc", "dual_v1"): "0.56 0.28 0.71 0.28 0.44 0.30 0.60 0.29 0.69 0.33 0.51 0.32",
    ("adc", "dual_v2"): "0.49 0.29 0.68 0.32 0.36 0.27 0.53 0.29 0.66 0.37 0.41 0.28",
    ("adc", "dual_v3"): "0.51 0.28 0.71 0.29 0.43 0.29 0.55 0.29 0.69 0.33 0.49 0.30",
    ("dwi", "unimodal"): "0.45 0.34 0.57 0.37 0.45 0.37 0.45 0.34 0.59 0.38 0.40 0.34",
    ("dwi", "dual_v1"): "0.58 0.30 0.61 0.32 0.54 0.36 0.61 0.29 0.67 0.33 0.51 0.31",
    ("dwi", "dual_v2"): "0.52 0.29 0.62 0.30 0.56 0.34 0.53 0.28 0.67 0.30 0.52 0.28",
    ("dwi", "dual_v3"): "0.62 0.26 0.67 0.29 0.55 0.34 0.61 0.28 0.71 0.31 0.50 0.31",
}


def _cells(numbers: str) -> dict[tuple[str, str], tuple[float, float]]:
    values = [float(number) for number in numbers.split()]
    keys = [(rater, metric) for rater in ("r1", "r2") for metric in TABLE1_METRICS]
    return dict(zip(keys, zip(values[::2], values[1::2], strict=True), strict=True))


PAPER_STUDIES = 31
PAPER_TABLE1 = {key: _cells(numbers) for key, numbers in _PUBLISHED.items()}
"""{(modality, variant): {(rater, metric): (mean, +-)}} of the paper's 31 test studies."""


@dataclass(frozen=True)
class Table1Row:
    """One line of Table 1: a run of the user's, or (`run` None) the paper's published numbers.

    `cells` maps (rater, metric) to (mean, sd); `best` holds the keys in which this run is the
    best of at least two runs on its modality.
    """

    modality: str
    variant: str
    run: str | None
    n: int
    cells: dict[tuple[str, str], tuple[float | None, float | None]]
    best: frozenset[tuple[str, str]] = frozenset()

    def moments(self, key: tuple[str, str]) -> tuple[float | None, float | None]:
        """Mean and sd; the paper's raters are found whatever the case of the user's."""
        rater, metric = key
        own = key if self.run is not None else (rater.lower(), metric)
        return self.cells.get(own, (None, None))

    def text(self, key: tuple[str, str]) -> str:
        """The printed cell."""
        return plus_minus(*self.moments(key))


def table1_columns(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """The (rater, metric) columns of Table 1: the raters that the summary has."""
    raters = sorted({result["rater"] for result in summary["results"]})
    return [(rater, metric) for rater in raters for metric in TABLE1_METRICS]


def table1_rows(summary: dict[str, Any]) -> list[Table1Row]:
    """Lines of Table 1 over all studies: by modality and variant, runs first, then the paper's."""
    runs = _run_rows(summary)
    lines = []
    for modality in _ordered({row.modality for row in runs}, ("adc", "dwi")):
        own = _mark_best([row for row in runs if row.modality == modality])
        for variant in _ordered({row.variant for row in own} | set(VARIANT_TITLES), VARIANT_TITLES):
            lines += [row for row in own if row.variant == variant]
            published = PAPER_TABLE1.get((modality, variant))
            if published:
                lines.append(Table1Row(modality, variant, None, PAPER_STUDIES, published))
    return lines


def _run_rows(summary: dict[str, Any]) -> list[Table1Row]:
    rows: dict[tuple[str, str, str], Table1Row] = {}
    for result in summary["results"]:
        key, pool = (result["modality"], result["variant"], result["run"]), result["all"]
        row = rows.get(key, Table1Row(*key, 0, {}))
        moments = {metric: pool["scores"][metric] for metric in TABLE1_METRICS}
        cells = {(result["rater"], m): (both["mean"], both["sd"]) for m, both in moments.items()}
        rows[key] = replace(row, n=max(row.n, pool["n"]), cells={**row.cells, **cells})
    return list(rows.values())


def _mark_best(rows: list[Table1Row]) -> list[Table1Row]:
    """Ties are all best, to the two decimals that are printed; one run alone is not marked."""
    if len(rows) < 2:
        return rows
    printed = [
        {key: round(mean, 2) for key, (mean, _) in row.cells.items() if mean is not None}
        for row in rows
    ]
    top = {key: max(means.get(key, 0) for means in printed) for key in set().union(*printed)}
    return [
        replace(row, best=frozenset(key for key, mean in means.items() if mean == top[key]))
        for row, means in zip(rows, printed, strict=True)
    ]


def _ordered(names: Iterable[str], first: Iterable[str]) -> list[str]:
    first = list(first)
    return sorted(names, key=lambda n: (first.index(n) if n in first else len(first), n))


def column_title(rater: str, metric: str) -> str:
    return f"{rater_title(rater)} {'Dice' if metric == 'dice' else metric}"


TABLE1_NOTE = (
    "Rows marked 'published' are Table 1 of Gómez et al., MICCAI 2023 (LNCS 14223, pp. 776-785): "
    "31 test studies of the authors' clinical cohort, 2 of them controls, under the convention "
    "`paper`. They are not comparable with results on other data. ± of the runs is the sample "
    "standard deviation (n - 1); the published one was computed after the mean row had been "
    "appended, about 1.6 % smaller (`sd_as_published` in summary.json is the runs' by that rule). "
    "All studies are pooled, controls included, as in the paper. The best of the user's runs per "
    "column and modality is bold where there are at least two."
)
