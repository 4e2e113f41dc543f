"""What is wrong or remarkable about studies, before anything is made of them."""

import dataclasses
import functools
import hashlib
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from tfrecord_tools.adc_unit import check_adc_unit
from tfrecord_tools.errors import InputError
from tfrecord_tools.findings import SEVERITIES, Finding, by_severity
from tfrecord_tools.layouts import find_studies
from tfrecord_tools.lint import geometry, images, masks
from tfrecord_tools.reading import Reading, read_files
from tfrecord_tools.study import Study, build_study
from tfrecord_tools.study_files import StudyFiles
from tfrecord_tools.workers import Processes

#: A check by the code of what it finds: a function of a `Reading` that yields (severity, file,
#: message, remedy). What makes a study unreadable, for prediction too, is found by
#: `tfrecord_tools.reading.read_files`; what only the whole cohort shows, by `find_duplicates`.
CHECKS = {
    "missing-modality": images.check_modalities,
    "same-image": images.check_same_image,
    "adc-unit": images.check_adc_unit,
    "b-value": images.check_b_value,
    "four-dimensional": images.check_four_dimensional,
    "grid": geometry.check_grids,
    "two-placements": geometry.check_forms,
    "no-orientation": geometry.check_orientation,
    "contrast": images.check_contrast,
    "mirrored": images.check_mirrored,
    "spacing": geometry.check_spacing,
    "field-of-view": geometry.check_field_of_view,
    "anisotropy": geometry.check_anisotropy,
    "pixels": geometry.check_pixels,
    "stretched": geometry.check_stretched,
    "single-slice": geometry.check_slices,
    "saturated": images.check_saturated,
    "outliers": images.check_outliers,
    "negative": images.check_negative,
    "no-mask": masks.check_any_mask,
    "mask-values": masks.check_mask_values,
    "mask-empty": masks.check_mask_empty,
    "mask-in-control": masks.check_control,
    "mask-outside": masks.check_mask_outside,
    "mask-large": masks.check_mask_large,
    "mask-mirrored": masks.check_mask_mirrored,
}


@dataclasses.dataclass(frozen=True, eq=False)
class Examination:
    """What one reading of a study's files gives.

    Attributes:
        study: The study; None where a finding is an error.
        findings: What is wrong or remarkable, errors first.
        content: SHA-256 by modality of the image's voxels: little-endian float32 in the order of
            the file, before any resampling.
    """

    study: Study | None
    findings: tuple[Finding, ...]
    content: Mapping[str, str]


def examine(files: StudyFiles, adc_unit: str = "auto") -> Examination:
    """Read each file of a study once, and check it.

    Args:
        files: Where its images and masks are.
        adc_unit: See `tfrecord_tools.study.read_study`.

    Raises:
        InputError: The unit is unknown. Bad files are findings, not exceptions.
    """
    reading = read_files(files, adc_unit)
    findings = by_severity([f.finding(files.study) for f in reading.faults] + _check(reading))
    refused = any(finding.severity == "error" for finding in findings)
    return Examination(
        study=None if refused else build_study(reading),
        findings=tuple(findings),
        content={modality: voxels_checksum(v.voxels) for modality, v in reading.volumes.items()},
    )


def _check(reading: Reading) -> list[Finding]:
    if not reading.images:
        return []
    return [
        Finding(reading.files.study, code, severity, str(file), message, remedy)
        for code, check in CHECKS.items()
        for severity, file, message, remedy in check(reading)
    ]


def voxels_checksum(voxels: np.ndarray) -> str:
    """SHA-256 of an image's voxels, float32 in file order: the first axis runs fastest."""
    return hashlib.sha256(np.ascontiguousarray(voxels.T, dtype="<f4")).hexdigest()


def find_duplicates(contents: Mapping[str, Mapping[str, str]]) -> list[Finding]:
    """Images that stand in a cohort under two ids, and might so stand in two splits.

    Args:
        contents: `Examination.content` by study.

    Returns:
        An error for each study with an image of an earlier one; the earlier one has none.
    """
    first, findings = {}, []
    for study in sorted(contents):
        twins = {}
        for modality, digest in contents[study].items():
            earlier = first.setdefault(digest, study)
            if earlier != study:
                twins.setdefault(earlier, []).append(modality.upper())
        for earlier, modalities in twins.items():
            message = f"study {study} has the {' and '.join(modalities)} of study {earlier}"
            remedy = "remove one of the two, so that one image cannot stand in two splits"
            findings.append(Finding(study, "duplicate", "error", "", message, remedy))
    return findings


@dataclasses.dataclass(frozen=True)
class LintReport:
    """What was found in a cohort.

    Attributes:
        studies: Their ids, in order.
        findings: By study in that order; within a study, errors first.
    """

    studies: tuple[str, ...]
    findings: tuple[Finding, ...]

    @property
    def counts(self) -> dict[str, int]:
        """Findings by severity."""
        counted = Counter(finding.severity for finding in self.findings)
        return {severity: counted[severity] for severity in SEVERITIES}

    @property
    def refused(self) -> tuple[str, ...]:
        """The studies that a conversion would refuse."""
        bad = {finding.study for finding in self.findings if finding.severity == "error"}
        return tuple(study for study in self.studies if study in bad)


def lint(
    source: str | Path,
    *,
    layout: str = "auto",
    adc_unit: str = "auto",
    jobs: int = 1,
    on_study: Callable[[int, int], None] | None = None,
) -> LintReport:
    """Check every study of a cohort, as a conversion would before it writes.

    Args:
        source: Folder in a known layout, or a CSV table.
        layout: See `tfrecord_tools.layouts.find_studies`.
        adc_unit: See `tfrecord_tools.study.read_study`.
        jobs: Processes that read studies.
        on_study: Called with (studies done, studies in all).

    Raises:
        InputError: No study is found, or an option cannot be right.
    """
    check_adc_unit(adc_unit)
    if jobs < 1:
        raise InputError(f"jobs must be at least 1, received {jobs}; use --jobs 1 or more")
    studies = find_studies(source, layout)
    found, contents = {}, {}
    look = functools.partial(_look, adc_unit=adc_unit)
    try:
        with Processes(jobs) as execute:
            for files, (findings, content) in zip(studies, execute(look, studies), strict=True):
                found[files.study], contents[files.study] = findings, content
                if on_study:
                    on_study(len(found), len(studies))
    except ChildProcessError as error:
        raise InputError(str(error)) from error
    for finding in find_duplicates(contents):
        found[finding.study] = by_severity([*found[finding.study], finding])
    return LintReport(tuple(found), tuple(f for findings in found.values() for f in findings))


def _look(files: StudyFiles, adc_unit: str) -> tuple[tuple[Finding, ...], Mapping[str, str]]:
    """An examination without the study, which is too large to send between processes."""
    examination = examine(files, adc_unit)
    return examination.findings, examination.content
