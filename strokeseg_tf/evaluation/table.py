"""The table of scores and its summary.

A row is a dict with `COLUMNS` as keys: seven strings that say what was compared with what, then the
ten scores of `scores.SCORE_KEYS` as floats (NaN where a convention leaves one undefined).
"""

import csv
from collections.abc import Iterable, Sequence
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


def plus_minus(mean: float | None, sd: float | None) -> str:
    """ "0.56 ± 0.28"; a dash where there is no mean, the mean alone where there is no sd."""
    if mean is None:
        return "–"
    return f"{mean:.2f}" if sd is None else f"{mean:.2f} ± {sd:.2f}"


def rater_title(rater: str) -> str:
    return rater.upper() if len(rater) < 4 else rater


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
