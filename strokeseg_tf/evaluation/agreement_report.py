"""A cohort's studies -> the folder that says how well its raters agree."""

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from strokeseg_tf.evaluation.agreement import (
    AGREEMENT_NOTE,
    BANDS,
    AgreementRow,
    study_agreement,
    summarise_agreement,
    without_shared_masks,
)
from strokeseg_tf.evaluation.agreement_figure import agreement_figure, icc_text, volume_figure
from strokeseg_tf.evaluation.consensus import CONSENSUS, add_consensus
from strokeseg_tf.evaluation.table import plus_minus
from tfrecord_tools.atomic import check_free, new_folder
from tfrecord_tools.errors import InputError
from tfrecord_tools.layouts import find_studies
from tfrecord_tools.reader import read_studies, shards_of
from tfrecord_tools.shards import MANIFEST, read_dataset_info
from tfrecord_tools.storage import Remote, locate
from tfrecord_tools.study import Study, read_study
from tfrecord_tools.study_files import StudyFiles

#: The machine-readable result, and what an agreement folder is known by.
RESULT = "agreement.json"

COLUMNS = (
    *("study", "group", "kind", "modality", "rater", "first", "second"),
    *("kappa", "band", "dice", "first_volume_ml", "second_volume_ml"),
)
Progress = Callable[[int, int], None]


def cohort_agreement(
    source: str | Path,
    *,
    layout: str = "auto",
    split: str | None = None,
    consensus: str | None = None,
    skip_bad: bool = False,
    on_study: Progress | None = None,
) -> dict[str, Any]:
    """Compares the masks of a cohort's raters, with one study in memory at a time.

    Args:
        source: folder of studies, CSV table, or a finished shards folder.
        layout: see `tfrecord_tools.layouts.find_studies`.
        split: only the studies of this split of the shards or table.
        consensus: key of `consensus.CONSENSUS`: compare each rater with the consensus of all too.
        skip_bad: leave studies out that cannot be read, instead of stopping.
        on_study: called with (studies done, studies in all).

    Returns:
        `source`, `split`, `consensus`, `note`, `phantom`, `studies` and `controls` (counts of
        those compared), `left_out` (reason by study), `one_mask_for_both` (raters whose masks on
        ADC and DWI are one), `agreement` and `agreement_summary` (see `agreement`).

    Raises:
        InputError: nothing to compare, bad studies, or unknown split or consensus.
    """
    if consensus not in (None, *CONSENSUS):
        raise InputError(f"unknown consensus {consensus!r}; known: {', '.join(CONSENSUS)}")
    cohort = _Cohort(source, layout, split)
    rows = []
    for done, study in enumerate(cohort.read(), 1):
        if study:
            rows += _compare(study, consensus)
        if on_study:
            on_study(done, cohort.total)
    if cohort.bad and not (skip_bad and rows):
        raise InputError(_describe_bad(cohort))
    rows, shared = without_shared_masks(rows)
    if not rows:
        raise InputError(_describe_nothing(source, cohort))
    return _result(rows, shared, cohort) | {"consensus": consensus}


def write_agreement(
    source: str | Path, out: str | Path, *, overwrite: bool = False, **options: Any
) -> dict[str, Any]:
    """Writes what `cohort_agreement` finds.

    Writes `agreement.json` (what is returned), `agreement.csv` (a row per study x comparison),
    `agreement.md` and `figures/` (`agreement` and `volumes`, as PNG and SVG).

    Args:
        source: see `cohort_agreement`.
        out: folder to write; it appears whole or not at all.
        overwrite: replace `out` if it is an earlier agreement.
        **options: see `cohort_agreement`, whose result is returned.

    Raises:
        InputError: as there, or `out` exists.
    """
    check_free(out, overwrite, marker=RESULT)
    result = cohort_agreement(source, **options)
    with new_folder(out, overwrite, marker=RESULT) as folder:
        _write(folder, result)
    return result


class _Cohort:
    """The studies of a source, and why some of them say nothing about agreement.

    Attributes:
        total: studies in all.
        masks: by study that was looked at, its (rater, modality) keys.
        bad: by study that cannot be read, why.
    """

    def __init__(self, source: str | Path, layout: str, split: str | None):
        self.source, self.split = source, split
        self.masks: dict[str, list[tuple[str, str]]] = {}
        self.bad: dict[str, str] = {}
        if _is_shards(source):
            info = read_dataset_info(source)
            if split is not None:
                shards_of(source, info, split)
            self.total = len(info.studies if split is None else info.studies_of(split))
            self.files = None
        else:
            self.files = _of_split(find_studies(source, layout), source, split)
            self.total = len(self.files)

    def read(self) -> Iterator[Study | None]:
        """The studies in turn; None for one that was left out without being read."""
        studies = (
            read_studies(self.source, self.split) if self.files is None else self._from_files()
        )
        for study in studies:
            if study:
                self.masks[study.study] = sorted(study.masks)
            yield study

    def _from_files(self) -> Iterator[Study | None]:
        for files in self.files:
            self.masks[files.study] = sorted(files.masks)
            if len(set(files.masks.values())) < 2:
                yield None
                continue
            try:
                # The unit of the ADC is of no matter to masks.
                study = read_study(files, adc_unit="1e-3")
            except InputError as error:
                self.bad[files.study] = str(error)
                study = None
            yield study


def _is_shards(source: str | Path) -> bool:
    place = locate(source)
    if isinstance(place, Remote):
        return True
    return place.is_dir() and ((place / MANIFEST).exists() or any(place.glob("*.tfrecord")))


def _of_split(
    studies: Sequence[StudyFiles], source: str | Path, split: str | None
) -> list[StudyFiles]:
    chosen = [files for files in studies if split in (None, files.split)]
    if not chosen:
        known = ", ".join(sorted({files.split for files in studies} - {""})) or "none"
        raise InputError(
            f"{source} has no study in the split {split!r}; splits: {known} (a table names them in "
            "its column 'split', a shards folder has them)"
        )
    return chosen


def _compare(study: Study, consensus: str | None) -> list[AgreementRow]:
    masks = study.masks
    if consensus:
        try:
            masks = add_consensus(masks, consensus)
        except ValueError as error:
            raise InputError(f"study {study.study}: {error}; rename the rater") from error
    return study_agreement(study.study, study.group, masks, study.grid.spacing_mm)


def _describe_bad(cohort: _Cohort) -> str:
    reasons = "; ".join(f"{study}: {reason}" for study, reason in sorted(cohort.bad.items()))
    return (
        f"{len(cohort.bad)} of {cohort.total} studies cannot be read, so nothing was written (mend "
        f"them, or leave them out with --skip-bad): {reasons}"
    )


def _describe_nothing(source: str | Path, cohort: _Cohort) -> str:
    reasons: dict[str, int] = {}
    for keys in cohort.masks.values():
        reason = _reason(keys)
        reasons[reason] = reasons.get(reason, 0) + 1
    found = ", ".join(f"{count} with {reason}" for reason, count in reasons.items())
    return (
        f"no study of {source} has two masks to compare (of {cohort.total} studies {found}); add "
        "the masks of a second rater, or masks drawn on ADC and on DWI apart"
    )


def _reason(keys: Sequence[tuple[str, str]]) -> str:
    """Why the masks of a study cannot be compared."""
    if not keys:
        return "no mask"
    raters = {rater for rater, _ in keys}
    if len(raters) == 1 and len(keys) > 1:
        return f"one mask of {keys[0][0]} for both modalities"
    return "only " + " and ".join(f"{rater} on {modality.upper()}" for rater, modality in keys)


def _result(rows: list[AgreementRow], shared: list[str], cohort: _Cohort) -> dict[str, Any]:
    groups = {row["study"]: row["group"] for row in rows}
    left_out = {s: _reason(keys) for s, keys in cohort.masks.items() if s not in groups}
    return {
        "source": str(cohort.source),
        "split": cohort.split,
        "note": AGREEMENT_NOTE,
        "phantom": all(study.startswith("phantom-") for study in groups),
        "studies": len(groups),
        "controls": sum(group == "control" for group in groups.values()),
        "left_out": left_out | cohort.bad,
        "one_mask_for_both": shared,
        "agreement": rows,
        "agreement_summary": summarise_agreement(rows),
    }


def _write(folder: Path, result: Mapping[str, Any]) -> None:
    (folder / "figures").mkdir()
    rows, summary = result["agreement"], result["agreement_summary"]
    agreement_figure(folder / "figures" / "agreement.png", rows, summary)
    volume_figure(folder / "figures" / "volumes.png", rows, summary)
    write_rows(folder / "agreement.csv", rows)
    text = json.dumps(result, indent=2, allow_nan=False)
    (folder / RESULT).write_text(text + "\n", encoding="utf-8")
    (folder / "agreement.md").write_text(agreement_markdown(result), encoding="utf-8")


def write_rows(path: Path, rows: Iterable[AgreementRow]) -> None:
    """Writes rows of agreement as CSV; floats as `repr`, so that reading gives the same bits."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for row in rows:
            named = {**row, "first": row["pair"][0], "second": row["pair"][1]}
            writer.writerow(named[column] for column in COLUMNS)


def agreement_markdown(result: Mapping[str, Any]) -> str:
    """The tables of a cohort's agreement as Markdown, with what they are over."""
    summary = result["agreement_summary"]
    title = "# Agreement between raters and between modalities"
    lines = [
        title + (" (phantom data)" if result["phantom"] else ""),
        "",
        f"{result['studies']} studies were compared, {result['controls']} of them controls.",
        "",
        *_table(("Comparison", "Studies", "Kappa", "Median", "Dice", *BANDS), map(_bands, summary)),
        "",
        "## Lesion volumes",
        "",
        *_table(("Comparison", "ICC", "Bias (ml)", "Limits (ml)"), map(_volumes, summary)),
        "",
        *_controls(summary),
    ]
    for rater in result["one_mask_for_both"]:
        text = f"The masks of {rater} on ADC and DWI are the same in every study: not compared."
        lines += [text, ""]
    if result["consensus"]:
        lines += [
            f"`{result['consensus']}` is the consensus of each study's raters. It is made of the "
            "very masks it is compared with, so that agreement is flattering.",
            "",
        ]
    if result["left_out"]:
        left = (f"- {_escape(study)}: {_escape(why)}" for study, why in result["left_out"].items())
        lines += [f"Left out ({len(result['left_out'])}):", "", *left, ""]
    return "\n".join([*lines, result["note"], ""])


def _bands(entry: Mapping[str, Any]) -> list[str]:
    kappa, dice, n = entry["kappa"], entry["dice"], entry["studies"]
    median = "–" if kappa["median"] is None else f"{kappa['median']:.2f}"
    shares = [f"{c} ({100 * c / n:.0f} %)" if c else "0" for c in entry["bands"].values()]
    means = [plus_minus(kappa["mean"], kappa["sd"]), median, plus_minus(dice["mean"], dice["sd"])]
    return [entry["title"], str(n), *means, *shares]


def _volumes(entry: Mapping[str, Any]) -> list[str]:
    found = entry["volume_bland_altman"]
    if found["sd"] is None:
        return [entry["title"], icc_text(entry["icc"]), "–", "–"]
    low, high = found["bias_ci"]
    bias = f"{found['bias']:.2f} ({low:.2f} to {high:.2f})"
    return [
        *(entry["title"], icc_text(entry["icc"]), bias),
        f"{found['lower']:.2f} to {found['upper']:.2f}",
    ]


def _controls(summary: Sequence[Mapping[str, Any]]) -> list[str]:
    with_controls = [entry for entry in summary if entry["controls"]["studies"]]
    if not with_controls:
        return []
    rows = [
        [entry["title"], str(entry["controls"]["studies"]), str(len(entry["controls"]["marked"]))]
        for entry in with_controls
    ]
    titles = ("Comparison", "Controls", "Marked by one of the two or both")
    return ["## Controls", "", *_table(titles, rows), ""]


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    cells = [titles, ["---"] * len(titles), *([_escape(cell) for cell in row] for row in rows)]
    return [f"| {' | '.join(row)} |" for row in cells]


def _escape(text: str) -> str:
    marks = {"\\": "\\\\", "|": "\\|", "*": "\\*", "<": "&lt;", "\n": " "}
    return text.translate(str.maketrans(marks))
