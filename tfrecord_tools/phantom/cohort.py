"""Synthetic cohorts of acute stroke studies: paired ADC and DWI with the outlines of two raters.

Nothing here is painted: a head of T2-weighted signal and ADC is drawn, a spin-echo signal is
computed at b = 0 and b = 1000 s/mm2, blurred and made noisy, and the ADC map is worked out from the
two noisy images as a scanner would. Use it to try and to test the software, not to learn medicine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from scipy import ndimage

from tfrecord_tools.atomic import new_folder
from tfrecord_tools.grid import Grid
from tfrecord_tools.layouts import foscal_files
from tfrecord_tools.nifti import write_volume
from tfrecord_tools.phantom.anatomy import Anatomy, ScanBlock, build_anatomy, rotation, smooth_field
from tfrecord_tools.phantom.lesions import MASK_KEYS, apply_lesion, draw_lesion, draw_masks, swell
from tfrecord_tools.study_files import GROUPS, StudyFiles
from tfrecord_tools.table import TABLE, write_table

FIELD_OF_VIEW_MM = (213.0, 240.0)  # 0.83-0.94 mm at a matrix of 256
SLICE_STEP_MM = (5.5, 7.2)
COVERAGE_MM = (138.0, 150.0)
B_VALUE = 1.0  # 1000 s/mm2 against an ADC in 1e-3 mm2/s
BLUR_MM = 0.75
SHELL_ADC = 1.1
FLUID_S0, FLUID_ADC = 2.3, 3.05
CONTROL_STREAM = 0x636F6E74  # keeps the draw of the controls apart from every study's stream


@dataclass(frozen=True)
class PhantomStudy:
    """One synthetic study.

    Attributes:
        study: its name, such as `phantom-001`.
        group: "stroke" or "control".
        adc: float32 [x, y, z], ADC in 1e-3 mm2/s, 0 outside of the head.
        dwi: float32 [x, y, z], b1000 image in arbitrary units that differ between studies.
        masks: {(rater, modality): bool [x, y, z]} for r1, r2 and adc, dwi.
        affine: float64 (4, 4), voxels to mm; voxel axes run left, anterior, superior (LAS).
    """

    study: str
    group: str
    adc: np.ndarray
    dwi: np.ndarray
    masks: dict[tuple[str, str], np.ndarray]
    affine: np.ndarray


def make_phantom(
    index: int, *, seed: int, group: str, matrix: int = 256, slices: tuple[int, int] = (20, 26)
) -> PhantomStudy:
    """Makes one study, the same for the same arguments whatever else is made.

    The field of view is 213-240 mm for every matrix, so a smaller matrix has larger pixels (0.83 to
    0.94 mm at 256) and the head always fits. Slices are 5.5-7.2 mm apart.

    Args:
        index: number of the study in its cohort, from 1.
        seed: the cohort's seed, not negative.
        group: "stroke" or "control"; a control has four empty masks.
        matrix: pixels along either side of a slice, at least 32.
        slices: smallest and largest number of slices.

    Returns:
        The study.

    Raises:
        ValueError: an argument lies outside of its range.
    """
    check_sampling(matrix, slices, seed)
    if group not in GROUPS:
        raise ValueError(f"group must be one of {', '.join(GROUPS)}. Received instead: {group!r}.")
    streams = np.random.SeedSequence([seed, index]).spawn(5)
    place, head, lesion_rng, rater, scanner = (np.random.default_rng(s) for s in streams)
    block, affine = _draw_block(place, matrix, slices)
    anatomy = build_anatomy(head, block)
    if group == "control":
        s0, diffusion, masks = anatomy.s0, anatomy.adc, {}
    else:
        lesion = draw_lesion(lesion_rng, block, anatomy)
        anatomy = swell(anatomy, lesion)
        s0, diffusion = apply_lesion(lesion_rng, block, anatomy, lesion)
        masks = draw_masks(rater, block, anatomy, lesion)
    adc, dwi = _scan(scanner, block, anatomy, s0, diffusion)
    empty = np.zeros(anatomy.csf.shape, bool)
    full = {key: anatomy.volume(masks.get(key, empty)) for key in MASK_KEYS}
    return PhantomStudy(study_name(index), group, adc, dwi, full, affine)


def check_sampling(matrix: int, slices: tuple[int, int], seed: int) -> None:
    """Raises ValueError with a sentence where a study could not be sampled so."""
    if matrix < 32:
        raise ValueError(f"matrix must be at least 32 pixels. Received instead: {matrix}.")
    if not 1 <= slices[0] <= slices[1]:
        raise ValueError(
            "slices must be (smallest, largest), both at least 1, smallest first. "
            f"Received instead: {tuple(slices)}."
        )
    if seed < 0:
        raise ValueError(f"seed must be 0 or more. Received instead: {seed}.")


def _draw_block(rng: np.random.Generator, matrix: int, slices) -> tuple[ScanBlock, np.ndarray]:
    """Size, spacing and affine of a study; the affine is oblique, as technicians angle it."""
    count = int(rng.integers(slices[0], slices[1] + 1))
    pixel = rng.uniform(*FIELD_OF_VIEW_MM) / matrix
    step = np.clip(rng.uniform(*COVERAGE_MM) / count, *SLICE_STEP_MM)
    block = ScanBlock((matrix, matrix, count), (pixel, pixel, float(step)))
    affine = np.eye(4)
    turn = rotation(np.radians(rng.normal((-12, 0, 0), (6, 2, 2))))
    affine[:3, :3] = turn @ np.diag((-pixel, pixel, step))
    centre = (np.array(block.shape) - 1) / 2
    affine[:3, 3] = rng.normal(0, 4, 3) - affine[:3, :3] @ centre
    return block, affine


def _scan(rng, block: ScanBlock, anatomy: Anatomy, s0, diffusion) -> tuple[np.ndarray, np.ndarray]:
    """Images the head: ADC in 1e-3 mm2/s and DWI in arbitrary units, float32 [x, y, z]."""
    tissue = 1 - anatomy.csf
    weighted = np.exp(-B_VALUE * diffusion)
    b0 = anatomy.volume(anatomy.gain * (tissue * s0 + anatomy.csf * FLUID_S0))
    fluid = np.float32(FLUID_S0 * np.exp(-B_VALUE * FLUID_ADC))
    b1000 = anatomy.volume(anatomy.gain * (tissue * s0 * weighted + anatomy.csf * fluid))
    b0 += anatomy.shell
    b1000 += anatomy.shell * np.float32(np.exp(-B_VALUE * SHELL_ADC))
    coil = np.exp(0.13 * smooth_field(rng, block, 90.0))
    noise = rng.uniform(0.014, 0.028)
    b0, b1000 = (_rician(rng, _blurred(image, block) * coil, noise) for image in (b0, b1000))
    head = b0 > 0.2
    ratio = np.where(head, b1000 / np.maximum(b0, 1e-3), 1)
    adc = np.clip(-np.log(np.maximum(ratio, 1e-3)) / B_VALUE, 0, 4)
    return adc.astype(np.float32), (b1000 * rng.uniform(400, 1600)).astype(np.float32)


def _blurred(image: np.ndarray, block: ScanBlock) -> np.ndarray:
    """Point spread: Gaussian in the slice, a little cross-talk between neighbouring slices."""
    sigma = BLUR_MM / block.spacing_mm[0]
    for axis in (0, 1):
        image = ndimage.gaussian_filter1d(image, sigma, axis=axis, truncate=2.5)
    mixed = 0.86 * image
    mixed[..., 1:] += 0.07 * image[..., :-1]
    mixed[..., :-1] += 0.07 * image[..., 1:]
    return mixed


def _rician(rng: np.random.Generator, signal: np.ndarray, sigma: float) -> np.ndarray:
    """Magnitude of `signal` with complex Gaussian noise, correlated as in an interpolated image."""
    real, imaginary = (
        _between_neighbours(rng.standard_normal(signal.shape, dtype=np.float32)) for _ in "ri"
    )
    return np.hypot(signal + np.float32(sigma) * real, np.float32(sigma) * imaginary)


def _between_neighbours(noise: np.ndarray) -> np.ndarray:
    """Means of neighbouring pixels in the slice, scaled back to variance 1."""
    noise[:-1] += noise[1:]
    noise[:, :-1] += noise[:, 1:]
    return noise * np.float32(0.5)


def write_phantom_cohort(
    out: str | Path,
    *,
    studies: int = 82,
    controls: int = 7,
    seed: int = 0,
    matrix: int = 256,
    slices: tuple[int, int] = (20, 26),
    jobs: int = 1,
    overwrite: bool = False,
    on_study: Callable[[int, int], None] | None = None,
) -> Path:
    """Writes a cohort as NIfTI in the paper's layout (`foscal`) with a `studies.csv`.

    Each study holds `ADC/ADC.nii.gz` (int16, 1e-6 mm2/s), `DWI/DWI.nii.gz` (int16) and
    `Masks/{r1,r2}/{adc,dwi}.nii.gz` (uint8). The same arguments give the same bytes for any `jobs`.
    The folder appears whole or not at all.

    Args:
        out: the folder to make; an empty one may be there.
        studies: how many studies, controls included.
        controls: how many of them have no lesion; the seed draws which.
        seed: seed of the cohort, not negative.
        matrix: pixels along either side of a slice; see `make_phantom`.
        slices: smallest and largest number of slices.
        jobs: processes to use; 1 works in this one.
        overwrite: replaces an earlier cohort in `out`.
        on_study: called as `on_study(done, total)` after each study.

    Returns:
        The path of the folder.

    Raises:
        ValueError: an argument lies outside of its range.
        InputError: `out` exists, and `overwrite` is false or it is no cohort.
    """
    _check_cohort(studies, controls, jobs)
    check_sampling(matrix, slices, seed)
    out = Path(out)
    groups = draw_groups(studies, controls, seed)
    with new_folder(out, overwrite, marker=TABLE) as partial:
        tasks = [
            (partial, index, seed, group, matrix, tuple(slices))
            for index, group in enumerate(groups, start=1)
        ]
        written = []
        for files in _run(tasks, jobs):
            written.append(files)
            if on_study is not None:
                on_study(len(written), studies)
        write_table(partial / TABLE, sorted(written, key=lambda files: files.study))
    return out


def draw_groups(studies: int, controls: int, seed: int) -> list[str]:
    """Group of each study in order: `controls` of them, drawn from the seed, are controls."""
    chosen = np.random.default_rng([seed, CONTROL_STREAM]).permutation(studies)[:controls].tolist()
    return ["control" if index in chosen else "stroke" for index in range(studies)]


def _check_cohort(studies: int, controls: int, jobs: int) -> None:
    if studies < 1:
        raise ValueError(f"studies must be at least 1. Received instead: {studies}.")
    if not 0 <= controls <= studies:
        raise ValueError(
            f"controls are part of the {studies} studies, so give 0 to {studies} of them. "
            f"Received instead: {controls}."
        )
    if jobs < 1:
        raise ValueError(f"jobs must be at least 1 process. Received instead: {jobs}.")


def _run(tasks: list[tuple], jobs: int) -> Iterator[None]:
    """Writes the studies, here or in `jobs` processes, yielding as each is done."""
    if jobs == 1:
        for task in tasks:
            yield _write_one(*task)
        return
    # Spawned, not forked: a caller with threads (TensorFlow) must not be copied half-way.
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        try:
            for future in as_completed([pool.submit(_write_one, *task) for task in tasks]):
                yield future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _write_one(folder: Path, index: int, seed: int, group: str, matrix: int, slices) -> StudyFiles:
    study = make_phantom(index, seed=seed, group=group, matrix=matrix, slices=slices)
    return write_phantom_study(folder, study)


def write_phantom_study(folder: Path, study: PhantomStudy) -> StudyFiles:
    """Writes one study below `folder` in the `foscal` layout; see `write_phantom_cohort`."""
    files = foscal_files(folder / study.study, ("adc", "dwi"), study.masks, group=study.group)
    grid = Grid(study.adc.shape, study.affine)
    write_volume(files.images["adc"], _as_int16(study.adc * 1000), grid)
    write_volume(files.images["dwi"], _as_int16(study.dwi), grid)
    for key, mask in study.masks.items():
        write_volume(files.masks[key], mask, grid)
    return files


def _as_int16(image: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(image), 0, np.iinfo(np.int16).max).astype(np.int16)


def study_name(index: int) -> str:
    """Name of the study with this number, such as `phantom-001`."""
    return f"phantom-{index:03d}"
