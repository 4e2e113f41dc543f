"""Studies on disk -> a shards folder."""

import contextlib
import dataclasses
import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from tfrecord_tools.adc_unit import check_adc_unit
from tfrecord_tools.atomic import NEW
from tfrecord_tools.errors import InputError
from tfrecord_tools.findings import Finding
from tfrecord_tools.layouts import find_studies
from tfrecord_tools.lint.cohort import find_duplicates
from tfrecord_tools.parts import (
    PARTS,
    SHARDS,
    Part,
    PlannedShard,
    forget_shard,
    join_parts,
    joined_shards,
    make_part,
    part_file,
    part_key,
    versions,
)
from tfrecord_tools.shards import MANIFEST, SHARD_PATTERN, DatasetInfo, shard_name
from tfrecord_tools.splits import (
    DEFAULT_SHARES,
    SplitItem,
    check_no_leak,
    check_shares,
    read_split_file,
    split_folds,
    split_studies,
)
from tfrecord_tools.storage import shards_folder, work_folder_of
from tfrecord_tools.study_files import MODALITIES, StudyFiles
from tfrecord_tools.workers import Processes

#: Carries out a picklable function on items, anywhere that sees the same files, and gives the
#: results in their order.
Execute = Callable[[Callable, Sequence], Iterator]


@dataclasses.dataclass(frozen=True)
class ConversionReport:
    """What a conversion did.

    Attributes:
        info: The manifest.
        skipped: By study left out, why.
        remarks: What a user may want to know of the studies.
    """

    info: DatasetInfo
    skipped: Mapping[str, str]
    remarks: Sequence[str]


def convert(
    source: str | Path,
    out: str | Path,
    *,
    layout: str = "auto",
    shares: Mapping[str, float] | None = None,
    split_file: str | Path | None = None,
    folds: int | None = None,
    seed: int = 0,
    shard_mb: float = 64,
    jobs: int = 1,
    execute: Execute | None = None,
    adc_unit: str = "auto",
    skip_bad: bool = False,
    overwrite: bool = False,
    on_study: Callable[[int, int], None] | None = None,
    on_resume: Callable[[int], None] | None = None,
) -> ConversionReport:
    """Convert studies to sharded TFRecords of native slice pairs.

    Each study is read once and its records written to a file of their own; then the splits are
    dealt out and the files joined to shards. The result is the same, byte for byte, for the same
    seed, whatever `jobs` and whether or not it was interrupted: the same call goes on where the
    interrupted one was. All bad studies are reported at once and nothing is written, unless
    `skip_bad`.

    Args:
        source: Folder in a known layout, or a CSV table.
        out: Folder to write, here or remote; it appears whole or not at all.
        layout: See `tfrecord_tools.layouts.find_studies`.
        shares: Share of the patients by split, `DEFAULT_SHARES` if None (all to `train` where
            there are folds); ignored where a split file or the table's column `split` says it.
        split_file: CSV with the columns `study, split`.
        folds: Divide the split `train` into so many folds for cross-validation; see
            `DatasetInfo.views`.
        seed: Seed of the splits and folds.
        shard_mb: Size of a shard in MB, about.
        jobs: Processes that read and write studies.
        execute: What carries out the steps in place of `jobs` processes here, such as a Beam
            pipeline (`tfrecord_tools.beam_conversion`).
        adc_unit: See `tfrecord_tools.study.read_study`.
        skip_bad: Leave bad studies out instead of stopping.
        overwrite: Replace `out` if it exists.
        on_study: Called with (studies done, studies in all).
        on_resume: Called with the number of studies that an interrupted conversion had done.

    Raises:
        InputError: Nothing to convert, bad studies, impossible splits, or no room to write.
    """
    if not shard_mb > 0 or jobs < 1:
        raise InputError(f"shard size and jobs must be positive, received {shard_mb} and {jobs}")
    check_adc_unit(adc_unit)
    if execute:  # Elsewhere, where this process has its folder, others have theirs.
        source = os.path.abspath(source)
    shares = shares or ({"train": 1.0} if folds else DEFAULT_SHARES)
    check_shares(shares)  # Before hundreds of studies are read.
    try:
        with (
            shards_folder(out, overwrite, marker=MANIFEST, pattern=SHARD_PATTERN) as work,
            contextlib.nullcontext(execute) if execute else Processes(jobs) as execute,
        ):
            studies = find_studies(source, layout)
            make = functools.partial(make_part, work=work, adc_unit=adc_unit)
            _take_up(work, {part_key(files, adc_unit) for files in studies}, on_resume)
            parts, bad = _make_parts(work, studies, make, execute, on_study)
            skipped = {study: "; ".join(map(str, found)) for study, found in bad.items()}
            if skipped and not (skip_bad and parts):
                raise InputError(_describe_bad(skipped, len(studies)))
            asked = {f.study: f.split for f in studies if f.study in parts}
            splits = _assign(parts, asked, shares, split_file, seed)
            by_fold = _assign_folds(parts, splits, folds, seed)
            plan = _plan(parts, splits, by_fold, shard_mb * 1e6)
            _remake_parts(work, studies, parts, plan, make, execute)
            shards = list(execute(functools.partial(join_parts, work=work), plan))
            info = _describe(parts, splits, by_fold, plan, shards, seed, bad)
            info.write(work / NEW)
    except (OSError, MemoryError) as error:
        raise InputError(_describe_stop(error, work_folder_of(out))) from error
    return ConversionReport(info, skipped, [r for part in parts.values() for r in _remarks(part)])


def _describe_bad(bad: Mapping[str, str], total: int) -> str:
    reasons = "; ".join(f"{study}: {reason}" for study, reason in sorted(bad.items()))
    return (
        f"{len(bad)} of {total} studies cannot be converted, so nothing was written "
        f"(mend them, or leave them out with --skip-bad): {reasons}"
    )


def _describe_stop(error: OSError | MemoryError, work: Path) -> str:
    """What stopped a conversion whose studies are not to blame."""
    if isinstance(error, MemoryError):
        what = "the memory does not suffice; try fewer --jobs"
    elif error.errno is None:
        what = str(error)
    else:
        where = error.filename or work
        what = f"{where} cannot be written ({error.strerror}); check its rights and the disk"
    if work.exists():
        what += f"; finished studies are kept in {work}: the same command goes on from there"
    return what


def _take_up(work: Path, keys: set[str], on_resume) -> None:
    """Say how many studies an interrupted conversion has done; remove what is of no use now."""
    for folder in (PARTS, SHARDS):
        (work / folder).mkdir(exist_ok=True)
    _keep_parts(work, keys)
    done = len(list((work / PARTS).glob("*.json")))
    if done and on_resume:
        on_resume(done)


def _keep_parts(work: Path, keys: set[str]) -> None:
    for file in (work / PARTS).iterdir():
        if file.stem not in keys:
            file.unlink()


def _make_parts(
    work: Path, studies: Sequence[StudyFiles], make, execute: Execute, on_study
) -> tuple[dict[str, Part], dict[str, list[Finding]]]:
    """Read and write every study that is not done: the parts and the reasons why some are none."""
    joined = frozenset(key for keys in joined_shards(work).values() for key in keys)
    parts, bad = {}, {}
    for done, part in enumerate(execute(functools.partial(make, joined=joined), studies), 1):
        if part.errors:
            bad[part.study] = list(part.errors)
        else:
            parts[part.study] = part
        if on_study:
            on_study(done, len(studies))
    for finding in find_duplicates({study: part.content for study, part in parts.items()}):
        parts.pop(finding.study, None)
        bad.setdefault(finding.study, []).append(finding)
    _keep_parts(work, {part.key for part in parts.values()})
    return parts, bad


def _assign(parts, asked, shares, split_file, seed) -> dict[str, str]:
    """Split by study: from the file, from the table, or dealt out."""
    items = [_split_item(part) for part in parts.values()]
    if split_file is not None:
        return read_split_file(split_file, items)
    if any(asked.values()):
        missing = [study for study, split in asked.items() if not split]
        if missing:
            raise InputError(
                f"the table gives a split to some studies but not to {', '.join(missing[:5])}; "
                "fill the column or empty it"
            )
        check_no_leak(asked, {i.study: i.patient for i in items}, "the table")
        return asked
    return split_studies(items, shares, seed)


def _split_item(part: Part) -> SplitItem:
    largest = max(part.facts["lesion_ml"].values(), default=0.0)
    return SplitItem(part.study, part.facts["patient"], part.facts["group"], largest)


def _assign_folds(parts, splits, folds, seed) -> dict[str, int]:
    """Fold by study of the split `train`; empty without folds."""
    if folds is None:
        return {}
    if "train" not in splits.values() or "validation" in splits.values():
        raise InputError(
            "--folds divides the split train and makes its own validation; give a split train "
            "and none called validation"
        )
    items = [_split_item(part) for part in parts.values() if splits[part.study] == "train"]
    return split_folds(items, folds, seed)


def _plan(parts, splits, by_fold, shard_bytes) -> list[PlannedShard]:
    """The shards. A study stands in one shard, a shard in one fold, in the order of ids."""
    plan = []
    for split in sorted(set(splits.values()), key=_split_order):
        members = [part for part in parts.values() if splits[part.study] == split]
        members.sort(key=lambda part: by_fold.get(part.study, 0))
        shards, filled = [], 0
        for part in members:
            fold = by_fold.get(part.study)
            if not shards or shards[-1][0] != fold or filled + part.bytes > shard_bytes:
                shards.append((fold, []))
                filled = 0
            shards[-1][1].append(part)
            filled += part.bytes
        for index, (fold, held) in enumerate(shards):
            description = {"split": split} | ({} if fold is None else {"fold": fold})
            description["records"] = sum(part.facts["slices"] for part in held)
            name = shard_name(split, index, len(shards))
            plan.append(PlannedShard(name, description, [part.key for part in held]))
    return plan


def _split_order(split: str) -> tuple[int, str]:
    """train, validation, test, then others by name."""
    return {name: i for i, name in enumerate(DEFAULT_SHARES)}.get(split, 99), split


def _remake_parts(work, studies, parts, plan, make, execute) -> None:
    """Read studies again that an earlier conversion, with other options, joined to other shards."""
    planned = {shard.name: list(shard.keys) for shard in plan}
    joined = joined_shards(work)
    for name, keys in joined.items():
        if planned.get(name) != keys:
            forget_shard(work, name)
    wanted = {key for name, keys in planned.items() if joined.get(name) != keys for key in keys}
    missing = [
        files
        for files in studies
        if files.study in parts
        and parts[files.study].key in wanted
        and not part_file(work, parts[files.study].key).exists()
    ]
    for part in execute(make, missing):
        if part.errors or part.key != parts[part.study].key:
            raise InputError(f"the files of study {part.study} changed meanwhile; convert again")


def _describe(parts, splits, by_fold, plan, shards, seed, bad) -> DatasetInfo:
    """The manifest, with studies in the order of their records."""
    study_of = {part.key: part.study for part in parts.values()}
    in_order = [study_of[key] for shard in plan for key in shard.keys]
    by_split = {}
    for study in in_order:
        by_split.setdefault(splits[study], []).append(study)
    fold_members = [[] for _ in set(by_fold.values())]
    for study in by_split.get("train", ()) if by_fold else ():
        fold_members[by_fold[study]].append(study)
    return DatasetInfo(
        splits=by_split,
        studies={study: parts[study].facts for study in in_order},
        shards={shard.name: found for shard, found in zip(plan, shards, strict=True)},
        seed=seed,
        versions=versions(),
        folds=fold_members,
        warnings=[{"study": s} | dict(w) for s in in_order for w in parts[s].warnings],
        left_out={study: sorted({found.code for found in bad[study]}) for study in sorted(bad)},
    )


def _remarks(part: Part) -> list[str]:
    facts, remarks = part.facts, []
    if facts["adc_resampled"]:
        remarks.append(f"{part.study}: ADC was resampled to the grid of DWI")
    for modality in MODALITIES:
        if modality not in facts["modalities"]:
            other = facts["modalities"][0]
            remarks.append(f"{part.study}: no {modality}, so of use to unimodal {other} only")
    if not facts["masks"]:
        remarks.append(f"{part.study}: no mask, so of no use to training or evaluation")
    for found in part.warnings:
        remarks.append(f"{part.study}: {found['code']}: {found['file']} {found['message']}")
    return remarks
