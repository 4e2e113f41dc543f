"""Evaluates the predictions of one or several runs on a set of studies, one study at a time."""

import json
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from importlib import metadata
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from strokeseg_tf.evaluation.agreement import rater_agreement
from strokeseg_tf.evaluation.browser import StudyView, study_view
from strokeseg_tf.evaluation.contours import overlay_figure
from strokeseg_tf.evaluation.figures import Figure
from strokeseg_tf.evaluation.plots import dice_figure
from strokeseg_tf.evaluation.report import write_report
from strokeseg_tf.evaluation.scores import find_convention, scores
from strokeseg_tf.evaluation.table import (
    CONTROL,
    Row,
    plus_minus,
    rater_title,
    summarise,
    table1_markdown,
    write_scores,
)
from tfrecord_tools.atomic import new_folder
from tfrecord_tools.names import file_name

#: The machine-readable result, and what an evaluation folder is known by.
SUMMARY = "summary.json"

_LIBRARIES = ("numpy", "scipy", "connected-components-3d", "nibabel", "matplotlib")


@dataclass(frozen=True)
class Case:
    """A study with its masks, all arrays [slice, x, y] on one grid.

    Attributes:
        study: study id.
        group: "stroke" or "control".
        spacing_mm: voxel size in mm in array order: slice, x, y.
        affine: 4 x 4, voxel (x, y, slice) to RAS mm.
        images: float32 by modality.
        references: bool by (rater, modality).
        predictions: bool by run, then by modality.

    Raises:
        ValueError: the arrays differ in shape.
    """

    study: str
    group: str
    spacing_mm: tuple[float, float, float]
    affine: np.ndarray
    images: Mapping[str, np.ndarray]
    references: Mapping[tuple[str, str], np.ndarray]
    predictions: Mapping[str, Mapping[str, np.ndarray]]

    def __post_init__(self):
        arrays = [*self.images.values(), *self.references.values()]
        arrays += [mask for masks in self.predictions.values() for mask in masks.values()]
        shapes = {array.shape for array in arrays}
        if len(shapes) > 1:
            raise ValueError(
                f"images and masks of study {self.study} must share one grid. "
                f"Received shapes {', '.join(map(str, sorted(shapes)))}."
            )


def evaluate_cases(
    cases: Iterable[Case],
    runs: Mapping[str, str],
    out: Path | str,
    *,
    convention: str = "isles22",
    settings: Mapping[str, Any] | None = None,
    overlays: int = 12,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Scores every run on every case and writes the evaluation folder.

    Writes `scores.csv`, `summary.json`, `table1.md`, `report.html` and `figures/` into `out`, which
    appears whole or not at all. A mask that a case lacks gives no row.

    Args:
        cases: the studies; an iterator is walked once, with one case in memory.
        runs: variant by run name.
        out: folder to make.
        convention: key of `scores.CONVENTIONS`.
        settings: whatever the reader must know, for the end of the report; a true `phantom` has
            the data called phantom data everywhere.
        overlays: slices are drawn for this many cases, the first ones that come.
        overwrite: replaces an earlier evaluation in `out`.

    Returns:
        The content of `summary.json`.

    Raises:
        InputError: `out` exists, and `overwrite` is False or it is no evaluation.
        ValueError: unknown convention, no case with both a prediction and a reference, a study
            id that comes twice, or predictions of a run that is not in `runs`.
    """
    find_convention(convention)
    settings = {**(settings or {}), "software": software_versions()}
    with new_folder(Path(out).resolve(), overwrite, marker=SUMMARY) as folder:
        (folder / "figures").mkdir()
        found = _Findings()
        for case in cases:
            found.add(case, runs, convention)
            if case.images:
                found.views.append(study_view(case))
            if len(found.figures) < overlays and case.images:
                found.figures.append(_draw_case(case, folder / "figures", len(found.figures) + 1))
        if not found.rows:
            raise ValueError(
                "no case has both a prediction and a reference on one modality. "
                f"Received {len(found.studies)} cases."
            )
        summary = _summary(found, runs, convention, bool(settings.get("phantom")))
        _write(folder, summary, found, settings)
    return summary


@dataclass
class _Findings:
    """What is kept of the cases that have gone by."""

    rows: list[Row] = field(default_factory=list)
    agreement: list[Row] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    views: list[StudyView] = field(default_factory=list)
    studies: set[str] = field(default_factory=set)

    def add(self, case: Case, runs: Mapping[str, str], convention: str) -> None:
        if case.study in self.studies:
            raise ValueError(f"study ids must be unique. Received {case.study} twice.")
        unknown = sorted(set(case.predictions) - set(runs))
        if unknown:
            raise ValueError(
                f"predictions must be of {', '.join(runs)}. Received {', '.join(unknown)}."
            )
        self.studies.add(case.study)
        self.rows += case_rows(case, runs, convention)
        self.agreement += rater_agreement(case.study, case.references)


def _summary(
    found: _Findings, runs: Mapping[str, str], convention: str, phantom: bool
) -> dict[str, Any]:
    summary = summarise(found.rows, convention)
    summary |= {"phantom": phantom, "agreement": found.agreement}
    summary["runs_without_scores"] = sorted(set(runs) - {row["run"] for row in found.rows})
    summary["alarms"] = alarms(summary)
    summary["best_runs"] = best_runs(summary["results"], found.rows)
    return summary


def case_rows(case: Case, runs: Mapping[str, str], convention: str = "isles22") -> list[Row]:
    """Scores of one case: a row per run x modality x rater for which both masks are there."""
    rows = []
    for run, variant in runs.items():
        predictions = case.predictions.get(run, {})
        for (rater, modality), reference in sorted(case.references.items()):
            if modality in predictions:
                labels = {"run": run, "variant": variant, "study": case.study}
                labels |= {"group": case.group, "modality": modality, "rater": rater}
                measured = scores(reference, predictions[modality], case.spacing_mm, convention)
                rows.append({**labels, **measured})
    return rows


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


def _draw_case(case: Case, folder: Path, number: int) -> Figure:
    contours: dict[str, dict[str, np.ndarray]] = {modality: {} for modality in case.images}
    raters = sorted({rater for rater, _ in case.references})
    for run, masks in case.predictions.items():
        for modality, mask in masks.items():
            name = f"run {run}" if run in raters else run
            contours.setdefault(modality, {})[name] = mask
    for (rater, modality), mask in case.references.items():
        contours.setdefault(modality, {})[rater] = mask
    figure = overlay_figure(
        folder / f"overlay_{number:03d}_{file_name(case.study)}.png",
        case.study,
        case.images,
        contours,
        raters=raters,
        spacing_mm=case.spacing_mm,
        affine=case.affine,
    )
    return replace(figure, heading="Contours of the first studies, not chosen by result")


def software_versions() -> dict[str, str]:
    """Versions of Python and of the libraries that the numbers came out of."""
    libraries = {library: metadata.version(library) for library in _LIBRARIES}
    return {"python": platform.python_version(), **libraries}


def _write(
    folder: Path, summary: dict[str, Any], found: _Findings, settings: Mapping[str, Any]
) -> None:
    dice = dice_figure(folder / "figures" / "dice.png", found.rows)
    write_scores(folder / "scores.csv", found.rows)
    text = json.dumps(summary, indent=2, allow_nan=False)
    (folder / SUMMARY).write_text(text + "\n", encoding="utf-8")
    (folder / "table1.md").write_text(table1_markdown(summary), encoding="utf-8")
    drawn = [dice, *found.figures]
    write_report(
        folder,
        summary=summary,
        rows=found.rows,
        figures=drawn,
        views=found.views,
        settings=settings,
    )
