"""What a reader of an evaluation must see first, in sentences: alarms, and the best runs."""

from collections.abc import Iterable, Mapping
from math import isfinite
from typing import Any

from strokeseg_tf.evaluation.table import CONTROL, Row, plus_minus, rater_title


def alarms(summary: Mapping[str, Any]) -> list[str]:
    """What must not be overlooked: lesions answered with nothing, marked controls, lost runs."""
    sentences = [
        f"Run {run} has no score: no study has both its prediction and a reference."
        for run in summary["runs_without_scores"]
    ]
    missed: dict[tuple[str, str], set[str]] = {}
    marked: dict[tuple[str, str], set[str]] = {}
    for result in summary["results"]:
        key = (result["run"], result["modality"].upper())
        missed.setdefault(key, set()).update(result["stroke"]["missed"])
        marked.setdefault(key, set()).update(result["control"]["false_positives"]["studies"])
    for (run, modality), studies in missed.items():
        if studies:
            what = f"{_listed(studies, 'stroke study', 'stroke studies')}, where a rater drew one."
            sentences.append(f"Run {run} marks no lesion on {modality} in {what}")
    for (run, modality), studies in marked.items():
        if studies:
            what = _listed(studies, "control", "controls")
            sentences.append(f"Run {run} marks a lesion on {modality} in {what}.")
    return sentences


def _listed(studies: set[str], one: str, many: str, shown: int = 6) -> str:
    names = sorted(studies)
    rest = f" and {len(names) - shown} more" if len(names) > shown else ""
    return f"{len(names)} {one if len(names) == 1 else many} ({', '.join(names[:shown])}{rest})"


def best_runs(results: Iterable[Mapping[str, Any]], rows: Iterable[Row]) -> list[str]:
    """Per modality and rater: the best run by mean Dice on stroke studies, and its worst ones."""
    best: dict[tuple[str, str], Mapping[str, Any]] = {}
    for result in results:
        key, mean = (result["modality"], result["rater"]), _stroke_dice(result)["mean"]
        if mean is not None and (key not in best or mean > _stroke_dice(best[key])["mean"]):
            best[key] = result
    stroke = [row for row in rows if row["group"] != CONTROL and isfinite(row["dice"])]
    stroke.sort(key=lambda row: row["dice"])
    sentences = []
    for (modality, rater), result in best.items():
        wanted, dice = (result["run"], modality, rater), _stroke_dice(result)
        own = [row for row in stroke if (row["run"], row["modality"], row["rater"]) == wanted]
        lowest = ", ".join(
            f"{row['study']} ({row['dice']:.2f}, {row['reference_volume_ml']:.1f} ml)"
            for row in own[:3]
        )
        sentences.append(
            f"{modality.upper()} against {rater_title(rater)}: run {result['run']}, Dice "
            f"{plus_minus(dice['mean'], dice['sd'])} over {dice['n']} stroke studies. "
            f"Lowest (Dice, reference volume): {lowest}."
        )
    return sentences


def _stroke_dice(result: Mapping[str, Any]) -> Mapping[str, Any]:
    return result["stroke"]["scores"]["dice"]
