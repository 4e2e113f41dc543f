"""The table of scores, its summary, and Table 1 of the paper beside it.

A row is a dict with `COLUMNS` as keys: seven strings that say what was compared with what, then the
ten scores of `scores.SCORE_KEYS` as floats (NaN where a convention leaves one undefined).
"""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import isfinite, sqrt
from pathlib import Path
from typing import Any

from strokeseg_tf.evaluation.scores import SCORE_KEYS, find_convention

Row = dict[str, Any]

LABELS = ("run", "variant", "study", "group", "modality", "rater")
COLUMNS = (*LABELS, *SCORE_KEYS)
_POOLED = ("run", "variant", "modality", "rater")
CONTROL = "control"  # every other group counts as stroke, so that no alarm is lost to a typo
TABLE1_METRICS = ("dice", "precision", "sensitivity")
CONTROL_COLUMNS = (
    "Run", "Modality", "Controls", "Falsely marked", "Mean volume (ml)", "Largest (ml)",
)  # fmt: skip
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


def write_scores(path: Path | str, rows: Iterable[Row]) -> None:
    """Writes rows as CSV with `COLUMNS`; floats as `repr`, so that reading gives the same bits."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for row in rows:
            numbers = {key: repr(float(row[key])) for key in SCORE_KEYS}
            writer.writerow({**row, **numbers})


def read_scores(path: Path | str) -> list[Row]:
    """Reads what `write_scores` wrote.

    Raises:
        ValueError: the header is not `COLUMNS`, or a score is no number.
    """
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise ValueError(
                f"{path} must have the columns {', '.join(COLUMNS)}. Received {reader.fieldnames}."
            )
        return [{**row, **{key: float(row[key]) for key in SCORE_KEYS}} for row in reader]


def summarise(rows: Sequence[Row], convention: str = "isles22") -> dict[str, Any]:
    """Means and standard deviations over studies, ready for JSON (undefined numbers are None).

    Args:
        rows: rows of the score table.
        convention: the convention they were scored under, to be stated.

    Returns:
        `convention` (name, description), `studies` and `controls` (counts), and `results`: one
        entry per run x modality x rater with the rows pooled three ways: `all` (as the paper
        did), `stroke` (plus `empty_predictions` and `missed`: the studies where nothing was
        predicted, and those of them where the rater drew a lesion) and `control` (plus
        `false_positives`: the studies, and their predicted volume in ml).
    """
    pools: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        key = tuple(row[name] for name in _POOLED)
        pools.setdefault(key, []).append(row)
    chosen = find_convention(convention)
    return {
        "convention": {"name": chosen.name, "description": chosen.description},
        "studies": len({row["study"] for row in rows}),
        "controls": len({row["study"] for row in rows if row["group"] == CONTROL}),
        "results": [_result(key, pool) for key, pool in pools.items()],
    }


def _result(key: tuple[str, ...], rows: list[Row]) -> dict[str, Any]:
    stroke = [row for row in rows if row["group"] != CONTROL]
    controls = [row for row in rows if row["group"] == CONTROL]
    empty = [row for row in stroke if row["predicted_volume_ml"] == 0]
    return {
        **dict(zip(_POOLED, key, strict=True)),
        "all": _pool(rows),
        "stroke": {
            **_pool(stroke),
            "empty_predictions": [row["study"] for row in empty],
            "missed": [row["study"] for row in empty if row["reference_volume_ml"] > 0],
        },
        "control": {**_pool(controls), "false_positives": _false_positives(controls)},
    }


def _pool(rows: list[Row]) -> dict[str, Any]:
    return {
        "n": len(rows),
        "scores": {key: _moments([row[key] for row in rows]) for key in SCORE_KEYS},
    }


def _moments(values: Iterable[float]) -> dict[str, float | int | None]:
    """Mean and both +- over the defined values.

    `sd` = sqrt(SS / (n - 1)). `sd_as_published` is the same estimator after the mean has been
    appended to the n values, as the authors' code does: SS does not change, so sqrt(SS / n).
    """
    defined = [value for value in values if isfinite(value)]
    n = len(defined)
    if not n:
        return {"n": 0, "mean": None, "sd": None, "sd_as_published": None}
    mean = sum(defined) / n
    squares = sum((value - mean) ** 2 for value in defined)
    sd = sqrt(squares / (n - 1)) if n > 1 else None
    return {"n": n, "mean": mean, "sd": sd, "sd_as_published": sqrt(squares / n)}


def _false_positives(controls: list[Row]) -> dict[str, Any]:
    volumes = {row["study"]: row["predicted_volume_ml"] for row in controls}
    marked = [study for study, volume in volumes.items() if volume > 0]
    total = sum(volumes.values())
    return {
        "studies": marked,
        "mean_volume_ml": total / len(volumes) if volumes else None,
        "max_volume_ml": max(volumes.values(), default=None),
    }


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


def plus_minus(mean: float | None, sd: float | None) -> str:
    """ "0.56 ± 0.28"; a dash where there is no mean, the mean alone where there is no sd."""
    if mean is None:
        return "–"
    return f"{mean:.2f}" if sd is None else f"{mean:.2f} ± {sd:.2f}"


def rater_title(rater: str) -> str:
    return rater.upper() if len(rater) < 4 else rater


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


def table1_markdown(summary: dict[str, Any]) -> str:
    """The user's runs beside the paper's rows, then the controls, as Markdown."""
    columns = table1_columns(summary)
    titles = [_escape(column_title(*column)) for column in columns]
    title = "# Table 1 (phantom data)" if summary.get("phantom") else "# Table 1"
    lines = [title, "", *_header(["Modality", "Model", "Run", "Studies", *titles])]
    for row in table1_rows(summary):
        name = "*published*" if row.run is None else _escape(row.run)
        model = VARIANT_TITLES.get(row.variant, _escape(row.variant))
        cells = [f"**{row.text(key)}**" if key in row.best else row.text(key) for key in columns]
        lines.append(_line([_escape(row.modality.upper()), model, name, str(row.n), *cells]))
    convention = summary["convention"]
    lines += ["", f"Convention of the runs: `{convention['name']}`. {convention['description']}"]
    return "\n".join([*lines, "", TABLE1_NOTE, "", *_controls_markdown(summary), ""])


def _controls_markdown(summary: dict[str, Any]) -> list[str]:
    rows = control_rows(summary)
    if not rows:
        return ["## Controls", "", "No control studies were evaluated."]
    body = [_line([_escape(cell) for cell in row]) for row in rows]
    return ["## Controls", "", *_header(CONTROL_COLUMNS), *body]


def control_rows(summary: dict[str, Any]) -> list[list[str]]:
    """Printed cells under `CONTROL_COLUMNS`, of the rater who saw most controls."""
    rows: dict[tuple[str, str], list[str]] = {}
    for result in sorted(summary["results"], key=lambda result: result["control"]["n"]):
        key, pool = (result["run"], result["modality"].upper()), result["control"]
        if pool["n"]:
            found = pool["false_positives"]
            volumes = [f"{found[name]:.2f}" for name in ("mean_volume_ml", "max_volume_ml")]
            rows[key] = [*key, str(pool["n"]), str(len(found["studies"])), *volumes]
    return [rows[key] for key in sorted(rows)]


def _header(titles: Sequence[str]) -> list[str]:
    return [_line(titles), _line(["---"] * len(titles))]


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _escape(text: str) -> str:
    """Keeps a name from ending its cell or turning into markup."""
    marks = {"\\": "\\\\", "|": "\\|", "*": "\\*", "<": "&lt;", "\n": " "}
    return text.translate(str.maketrans(marks))
