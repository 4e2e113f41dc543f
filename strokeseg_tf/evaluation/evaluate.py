"""Evaluates the predictions of one or several runs on a set of studies, one study at a time."""

import json
import platform
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from strokeseg_tf.evaluation.agreement import (
    AgreementRow,
    study_agreement,
    summarise_agreement,
    without_shared_masks,
)
from strokeseg_tf.evaluation.browser import StudyView, study_view
from strokeseg_tf.evaluation.case import Case
from strokeseg_tf.evaluation.consensus import add_consensus
from strokeseg_tf.evaluation.contours import overlay_figure
from strokeseg_tf.evaluation.conventions import Convention, find_convention
from strokeseg_tf.evaluation.figures import Figure
from strokeseg_tf.evaluation.findings import alarms, best_runs
from strokeseg_tf.evaluation.plots import statistics_figures
from strokeseg_tf.evaluation.probabilities import ProbabilityCurves, summarise_probabilities
from strokeseg_tf.evaluation.report import write_report
from strokeseg_tf.evaluation.scores import scores
from strokeseg_tf.evaluation.statistics import run_statistics
from strokeseg_tf.evaluation.table import Row, summarise, write_scores
from strokeseg_tf.evaluation.table1_files import write_table1
from tfrecord_tools.atomic import new_folder
from tfrecord_tools.errors import InputError
from tfrecord_tools.names import file_name

#: The machine-readable result, and what an evaluation folder is known by.
SUMMARY = "summary.json"

_LIBRARIES = ("numpy", "scipy", "connected-components-3d", "nibabel", "matplotlib")


def evaluate_cases(
    cases: Iterable[Case],
    runs: Mapping[str, str],
    out: Path | str,
    *,
    convention: str = "isles22",
    consensus: str | None = None,
    thresholds: Mapping[str, float] | None = None,
    weights: Mapping[str, str | None] | None = None,
    settings: Mapping[str, Any] | None = None,
    overlays: int = 4,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Scores every run on every case and writes the evaluation folder.

    Writes `scores.csv`, `summary.json`, Table 1 (`table1.md`, `.csv`, `.tex`), `report.html` and
    `figures/` into `out`, which appears whole or not at all. A mask that a case lacks gives no row.

    Args:
        cases: the studies; an iterator is walked once, with one case in memory.
        runs: variant by run name.
        out: folder to make.
        convention: key of `scores.CONVENTIONS`.
        consensus: key of `consensus.CONSENSUS`: the raters' consensus as one rater more. It enters
            the scores, not the agreement between raters.
        thresholds: probability above which a voxel is lesion by run name; 0.5 where not named.
        weights: sha256 of the model's file by run name, for those who must know what was scored.
        settings: whatever the reader must know, for the end of the report; a true `phantom` has
            the data called phantom data everywhere.
        overlays: slices are drawn for this many cases, the first ones that come.
        overwrite: replaces an earlier evaluation in `out`.

    Returns:
        The content of `summary.json`.

    Raises:
        InputError: `out` exists, and `overwrite` is False or it is no evaluation; no case has
            both a prediction and a reference.
        ValueError: unknown convention or consensus, a study id that comes twice, or predictions of
            a run that is not in `runs`.
    """
    settings = {**(settings or {}), "software": software_versions()}
    gathered = _Gathered(runs, find_convention(convention), consensus)
    with new_folder(Path(out).resolve(), overwrite, marker=SUMMARY) as folder:
        (folder / "figures").mkdir()
        drawn = []
        for case in gathered.add_all(cases):
            if len(drawn) < overlays and case.images:
                drawn.append(_draw_case(case, folder / "figures", len(drawn) + 1))
        if not gathered.rows:
            raise InputError(
                f"no case of {len(gathered.studies)} has both a prediction and a reference on one "
                "modality; name runs or predictions of the studies in this split"
            )
        summary = gathered.summary(thresholds or {}, bool(settings.get("phantom")))
        summary["runs"] = {
            run: {
                "variant": variant,
                "threshold": (thresholds or {}).get(run),
                "weights_sha256": (weights or {}).get(run),
            }
            for run, variant in runs.items()
        }
        _write(folder, summary, gathered, drawn, settings)
    return summary


@dataclass(frozen=True)
class _Measured:
    """A case, the consensus among its references, and what is kept of it."""

    case: Case
    rows: list[Row]
    agreement: list[AgreementRow]
    view: StudyView | None


#: Cases that are measured at once, in threads: the work is in libraries that let others run.
_THREADS = 2


class _Gathered:
    """What is kept of the cases that have gone by."""

    def __init__(self, runs: Mapping[str, str], convention: Convention, consensus: str | None):
        self._runs, self._convention, self._consensus = runs, convention, consensus
        self.studies: set[str] = set()
        self.rows: list[Row] = []
        self.views: list[StudyView] = []
        self._agreement: list[AgreementRow] = []
        self._curves: dict[tuple[str, str, str], ProbabilityCurves] = {}

    def add_all(self, cases: Iterable[Case]) -> Iterator[Case]:
        """Measures cases, a few ahead, and gives them back in order, with the consensus."""
        waiting: deque[Future] = deque()
        with ThreadPoolExecutor(_THREADS) as pool:
            for case in cases:
                self._check(case)
                waiting.append(pool.submit(self._measure, case))
                if len(waiting) > _THREADS:
                    yield self._keep(waiting.popleft().result())
            while waiting:
                yield self._keep(waiting.popleft().result())

    def _check(self, case: Case) -> None:
        if case.study in self.studies:
            raise ValueError(f"study ids must be unique. Received {case.study} twice.")
        unknown = sorted(set(case.predictions) - set(self._runs))
        if unknown:
            raise ValueError(
                f"predictions must be of {', '.join(self._runs)}. Received {', '.join(unknown)}."
            )
        self.studies.add(case.study)

    def _measure(self, case: Case) -> _Measured:
        agreement = study_agreement(case.study, case.group, case.references, case.spacing_mm)
        if self._consensus:
            case = replace(case, references=add_consensus(case.references, self._consensus))
        rows = case_rows(case, self._runs, self._convention.name)
        return _Measured(case, rows, agreement, study_view(case) if case.images else None)

    def _keep(self, measured: _Measured) -> Case:
        case = measured.case
        self.rows += measured.rows
        self._agreement += measured.agreement
        if measured.view:
            self.views.append(measured.view)
        for run, by_modality in case.probabilities.items():
            for (rater, modality), reference in sorted(case.references.items()):
                if modality in by_modality:
                    curves = self._curves.setdefault(
                        (run, modality, rater), ProbabilityCurves(self._convention.dice_both_empty)
                    )
                    curves.add(by_modality[modality], reference)
        return case

    def summary(self, thresholds: Mapping[str, float], phantom: bool) -> dict[str, Any]:
        """The content of `summary.json`."""
        agreement, shared = without_shared_masks(self._agreement)
        summary = summarise(self.rows, self._convention.name)
        summary |= {
            "phantom": phantom,
            "consensus": self._consensus,
            "agreement": agreement,
            "agreement_summary": summarise_agreement(agreement),
            "raters_with_one_mask": shared,
            "statistics": run_statistics(self.rows, agreement),
            "probabilities": summarise_probabilities(
                self._curves, {run: thresholds.get(run, 0.5) for run in self._runs}
            ),
            "runs_without_scores": sorted(set(self._runs) - {row["run"] for row in self.rows}),
        }
        summary["alarms"] = alarms(summary)
        summary["best_runs"] = best_runs(summary["results"], self.rows)
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
    folder: Path,
    summary: dict[str, Any],
    gathered: _Gathered,
    drawn: list[Figure],
    settings: Mapping[str, Any],
) -> None:
    figures = [*statistics_figures(folder / "figures", summary, gathered.rows), *drawn]
    write_scores(folder / "scores.csv", gathered.rows)
    text = json.dumps(summary, indent=2, allow_nan=False)
    (folder / SUMMARY).write_text(text + "\n", encoding="utf-8")
    write_table1(folder, summary)
    write_report(
        folder,
        summary=summary,
        rows=gathered.rows,
        figures=figures,
        views=gathered.views,
        settings=settings,
    )
