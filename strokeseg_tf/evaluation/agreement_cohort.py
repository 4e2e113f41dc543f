"""A cohort's studies -> how well its raters agree, and which studies say nothing about it."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from strokeseg_tf.evaluation.agreement import (
    AGREEMENT_NOTE,
    AgreementRow,
    study_agreement,
    summarise_agreement,
    without_shared_masks,
)
from strokeseg_tf.evaluation.consensus import CONSENSUS, add_consensus
from strokeseg_tf.evaluation.table import CONTROL
from tfrecord_tools.errors import InputError
from tfrecord_tools.layouts import find_studies
from tfrecord_tools.reader import read_studies, shards_of
from tfrecord_tools.shards import MANIFEST, read_dataset_info
from tfrecord_tools.storage import Remote, locate
from tfrecord_tools.study import Study, read_study
from tfrecord_tools.study_files import StudyFiles

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
            raise InputError(
                f"study {study.study}: {error}; rename the rater or take another consensus"
            ) from error
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
        "controls": sum(group == CONTROL for group in groups.values()),
        "left_out": left_out | cohort.bad,
        "one_mask_for_both": shared,
        "agreement": rows,
        "agreement_summary": summarise_agreement(rows),
    }
