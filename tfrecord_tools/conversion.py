"""Studies on disk -> a shards folder."""

import concurrent.futures
import contextlib
import dataclasses
import itertools
import math
import multiprocessing
import platform
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path

import nibabel
import numpy as np

from tfrecord_tools.atomic import new_folder
from tfrecord_tools.errors import InputError
from tfrecord_tools.layouts import find_studies
from tfrecord_tools.nifti import read_mask
from tfrecord_tools.shards import MANIFEST, DatasetInfo, ShardWriter, shard_name
from tfrecord_tools.splits import (
    DEFAULT_SHARES,
    SplitItem,
    check_no_leak,
    read_split_file,
    split_studies,
)
from tfrecord_tools.study import Study, check_adc_unit, read_study
from tfrecord_tools.study_files import MODALITIES, StudyFiles


@dataclasses.dataclass(frozen=True)
class ConversionReport:
    """What a conversion did: the manifest, the studies left out and why, and remarks."""

    info: DatasetInfo
    skipped: Mapping[str, str]
    remarks: Sequence[str]


def convert(
    source: str | Path,
    out: str | Path,
    *,
    layout: str = "auto",
    shares: Mapping[str, float] = DEFAULT_SHARES,
    split_file: str | Path | None = None,
    seed: int = 0,
    shard_mb: float = 64,
    jobs: int = 1,
    adc_unit: str = "auto",
    skip_bad: bool = False,
    overwrite: bool = False,
    on_study: Callable[[int, int], None] | None = None,
) -> ConversionReport:
    """Convert studies to sharded TFRecords of native slice pairs.

    The result is the same, byte for byte, for the same seed whatever `jobs`. All bad studies are
    reported at once and nothing is written, unless `skip_bad`.

    Args:
        source: Folder in a known layout, or a CSV table.
        out: Folder to write; it appears whole or not at all.
        layout: See `tfrecord_tools.layouts.find_studies`.
        shares: Share of the patients by split; ignored where a split file or the table's column
            `split` says it.
        split_file: CSV with the columns `study, split`.
        seed: Seed of the splits.
        shard_mb: Size of a shard in MB, about.
        jobs: Processes that read studies.
        adc_unit: See `tfrecord_tools.study.read_study`.
        skip_bad: Leave bad studies out instead of stopping.
        overwrite: Replace `out` if it exists.
        on_study: Called with (studies done, studies in all).

    Raises:
        InputError: Nothing to convert, bad studies, or impossible splits.
    """
    if not shard_mb > 0 or jobs < 1:
        raise InputError(f"shard size and jobs must be positive, received {shard_mb} and {jobs}")
    check_adc_unit(adc_unit)
    with new_folder(out, overwrite, marker=MANIFEST) as folder:
        scanned, bad = _scan(find_studies(source, layout))
        splits = _assign(scanned, shares, split_file, seed)
        plan = _plan(scanned, splits, shard_mb * 1e6)
        info, unreadable, remarks = _write(folder, plan, jobs, adc_unit, seed, on_study)
        bad |= unreadable
        if bad and not (skip_bad and info.studies):
            raise InputError(_describe_bad(bad, len(scanned) + len(bad) - len(unreadable)))
        info.write(folder)
    return ConversionReport(info, bad, remarks)


def _describe_bad(bad: Mapping[str, str], total: int) -> str:
    reasons = "; ".join(f"{study}: {reason}" for study, reason in sorted(bad.items()))
    return (
        f"{len(bad)} of {total} studies cannot be converted, so nothing was written "
        f"(mend them, or leave them out with --skip-bad): {reasons}"
    )


@dataclasses.dataclass(frozen=True)
class _Scanned:
    """A study before its voxels are read: its files, its place in a split, its size."""

    files: StudyFiles
    item: SplitItem
    size_bytes: int


def _scan(studies: Sequence[StudyFiles]) -> tuple[list[_Scanned], dict[str, str]]:
    """Read masks and headers: enough to stratify and to size the shards."""
    scanned, bad = [], {}
    for files in studies:
        try:
            scanned.append(_scan_study(files))
        except InputError as error:
            bad[files.study] = str(error)
    return scanned, bad


def _scan_study(files: StudyFiles) -> _Scanned:
    largest, any_lesion = 0.0, False
    for path in files.masks.values():
        mask, grid = read_mask(path)
        any_lesion |= bool(mask.any())
        largest = max(largest, float(mask.sum()) * grid.voxel_ml)
    group = files.group or ("unknown" if not files.masks else ["control", "stroke"][any_lesion])
    reference = files.images.get("dwi") or files.images["adc"]
    try:
        voxels = math.prod(nibabel.load(reference).shape[:3])
    except Exception:  # The full read that follows says what is wrong with the file.
        voxels = 0
    size = voxels * (4 * len(files.images) + len(files.masks) / 8)
    item = SplitItem(files.study, files.patient, group, largest)
    return _Scanned(files, item, int(size))


def _assign(scanned, shares, split_file, seed) -> dict[str, str]:
    """Split by study: from the file, from the table, or dealt out."""
    items = [s.item for s in scanned]
    if split_file is not None:
        return read_split_file(split_file, items)
    asked = {s.files.study: s.files.split for s in scanned}
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


def _plan(
    scanned: Sequence[_Scanned], splits: Mapping[str, str], shard_bytes: float
) -> dict[str, tuple[str, list[StudyFiles]]]:
    """Shard name -> its split and studies. A study stands in one shard, in the order of ids."""
    plan = {}
    for split in sorted(set(splits.values()), key=_split_order):
        shards, filled = [[]], 0
        for study in (s for s in scanned if splits[s.item.study] == split):
            if shards[-1] and filled + study.size_bytes > shard_bytes:
                shards.append([])
                filled = 0
            shards[-1].append(study.files)
            filled += study.size_bytes
        for index, files in enumerate(shards):
            plan[shard_name(split, index, len(shards))] = split, files
    return plan


def _split_order(split: str) -> tuple[int, str]:
    """train, validation, test, then others by name."""
    return {name: i for i, name in enumerate(DEFAULT_SHARES)}.get(split, 99), split


def _write(folder, plan, jobs, adc_unit, seed, on_study):
    """Write every shard of the plan; studies that cannot be read are named, not written."""
    in_order = [files for _, studies in plan.values() for files in studies]
    splits, studies, shards, bad, remarks = {}, {}, {}, {}, []
    done = 0
    with contextlib.closing(_read_ahead(in_order, adc_unit, jobs)) as results:
        for name, (split, members) in plan.items():
            writer = ShardWriter(folder / name)
            for files, result in itertools.islice(results, len(members)):
                if isinstance(result, Study):
                    writer.write(result)
                    splits.setdefault(split, []).append(result.study)
                    studies[result.study] = _facts(result)
                    remarks += _remarks(result)
                else:
                    bad[files.study] = result
                done += 1
                if on_study:
                    on_study(done, len(in_order))
            shards[name] = {"split": split} | writer.close()
    info = DatasetInfo(splits, studies, shards, seed, versions=_versions())
    return info, bad, remarks


def _read_ahead(
    studies: Iterable[StudyFiles], adc_unit: str, jobs: int
) -> Iterator[tuple[StudyFiles, Study | str]]:
    """Read studies in order, `jobs` at a time in processes of their own, a few ahead at most."""
    if jobs == 1:
        yield from ((files, _read(files, adc_unit)) for files in studies)
        return
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(jobs, mp_context=context) as pool:
        waiting = deque()
        try:
            for files in studies:
                waiting.append((files, pool.submit(_read, files, adc_unit)))
                if len(waiting) > 2 * jobs:
                    first, future = waiting.popleft()
                    yield first, future.result()
            for first, future in waiting:
                yield first, future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _read(files: StudyFiles, adc_unit: str) -> Study | str:
    """The study, or in words why it cannot be read."""
    try:
        return read_study(files, adc_unit)
    except InputError as error:
        return str(error)


def _facts(study: Study) -> dict:
    """What the manifest says of a study."""
    slices, height, width = next(iter(study.images.values())).shape
    return {
        "patient": study.patient,
        "group": study.group,
        "slices": slices,
        "height": height,
        "width": width,
        "spacing_mm": [round(s, 6) for s in study.grid.spacing_mm],
        "modalities": [m for m in MODALITIES if m in study.images],
        "masks": sorted(f"{rater}_{modality}" for rater, modality in study.masks),
        "lesion_ml": {
            f"{rater}_{modality}": round(float(np.sum(mask)) * study.grid.voxel_ml, 6)
            for (rater, modality), mask in sorted(study.masks.items())
        },
        "adc_scale": study.adc_scale,
        "adc_resampled": study.adc_grid is not None,
    }


def _remarks(study: Study) -> list[str]:
    remarks = []
    if study.adc_grid is not None:
        remarks.append(f"{study.study}: ADC was resampled to the grid of DWI")
    for modality in MODALITIES:
        if modality not in study.images:
            other = next(iter(study.images))
            remarks.append(f"{study.study}: no {modality}, so of use to unimodal {other} only")
    if not study.masks:
        remarks.append(f"{study.study}: no mask, so of no use to training or evaluation")
    return remarks


def _versions() -> dict[str, str]:
    packages = ("strokeseg-tf", "tensorflow", "numpy", "nibabel")
    return {"python": platform.python_version()} | {p: metadata.version(p) for p in packages}
