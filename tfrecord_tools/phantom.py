"""Synthetic cohorts of acute stroke studies: paired ADC and DWI with the outlines of two raters.

Nothing here is painted: a head of T2-weighted signal and ADC is drawn, a spin-echo signal is
computed at b = 0 and b = 1000 s/mm2, blurred and made noisy, and the ADC map is worked out from the
two noisy images as a scanner would. Use it to try and to test the software, not to learn medicine.
"""

from __future__ import annotations

import csv
import gzip
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage

from tfrecord_tools.phantom_anatomy import Anatomy, Grid, build_anatomy, rotation, smooth_field
from tfrecord_tools.phantom_lesions import MASK_KEYS, apply_lesion, draw_lesion, draw_masks

GROUPS = ("stroke", "control")
FIELD_OF_VIEW_MM = (213.0, 240.0)  # 0.83-0.94 mm at a matrix of 256
SLICE_STEP_MM = (5.5, 7.2)
COVERAGE_MM = (138.0, 150.0)
B_VALUE = 1.0  # 1000 s/mm2 against an ADC in 1e-3 mm2/s
BLUR_MM = 0.75
SHELL_ADC = 1.1
FLUID_S0, FLUID_ADC = 2.3, 3.05
CONTROL_STREAM = 0x636F6E74  # keeps the draw of the controls apart from every study's stream
TABLE_COLUMNS = (
    "study", "adc", "dwi", "mask_adc_r1", "mask_dwi_r1", "mask_adc_r2", "mask_dwi_r2",
    "group", "split", "patient",
)  # fmt: skip


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
    grid, affine = _draw_grid(place, matrix, slices)
    anatomy = build_anatomy(head, grid)
    if group == "control":
        s0, diffusion, masks = anatomy.s0, anatomy.adc, {}
    else:
        lesion = draw_lesion(lesion_rng, grid, anatomy)
        s0, diffusion = apply_lesion(lesion_rng, grid, anatomy, lesion)
        masks = draw_masks(rater, grid, anatomy, lesion)
    adc, dwi = _scan(scanner, grid, anatomy, s0, diffusion)
    empty = np.zeros(anatomy.csf.shape, bool)
    full = {key: anatomy.volume(masks.get(key, empty)) for key in MASK_KEYS}
    return PhantomStudy(f"phantom-{index:03d}", group, adc, dwi, full, affine)


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


def _draw_grid(rng: np.random.Generator, matrix: int, slices) -> tuple[Grid, np.ndarray]:
    """Size, spacing and affine of a study; the affine is oblique, as technicians angle it."""
    count = int(rng.integers(slices[0], slices[1] + 1))
    pixel = rng.uniform(*FIELD_OF_VIEW_MM) / matrix
    step = np.clip(rng.uniform(*COVERAGE_MM) / count, *SLICE_STEP_MM)
    grid = Grid((matrix, matrix, count), (pixel, pixel, float(step)))
    affine = np.eye(4)
    turn = rotation(np.radians(rng.normal((-12, 0, 0), (6, 2, 2))))
    affine[:3, :3] = turn @ np.diag((-pixel, pixel, step))
    centre = (np.array(grid.shape) - 1) / 2
    affine[:3, 3] = rng.normal(0, 4, 3) - affine[:3, :3] @ centre
    return grid, affine


def _scan(rng, grid: Grid, anatomy: Anatomy, s0, diffusion) -> tuple[np.ndarray, np.ndarray]:
    """Images the head: ADC in 1e-3 mm2/s and DWI in arbitrary units, float32 [x, y, z]."""
    tissue = 1 - anatomy.csf
    weighted = np.exp(-B_VALUE * diffusion)
    b0 = anatomy.volume(anatomy.gain * (tissue * s0 + anatomy.csf * FLUID_S0))
    fluid = np.float32(FLUID_S0 * np.exp(-B_VALUE * FLUID_ADC))
    b1000 = anatomy.volume(anatomy.gain * (tissue * s0 * weighted + anatomy.csf * fluid))
    b0 += anatomy.shell
    b1000 += anatomy.shell * np.float32(np.exp(-B_VALUE * SHELL_ADC))
    coil = np.exp(0.13 * smooth_field(rng, grid, 90.0))
    noise = rng.uniform(0.014, 0.028)
    b0, b1000 = (_rician(rng, _blurred(image, grid) * coil, noise) for image in (b0, b1000))
    head = b0 > 0.2
    ratio = np.where(head, b1000 / np.maximum(b0, 1e-3), 1)
    adc = np.clip(-np.log(np.maximum(ratio, 1e-3)) / B_VALUE, 0, 4)
    return adc.astype(np.float32), (b1000 * rng.uniform(400, 1600)).astype(np.float32)


def _blurred(image: np.ndarray, grid: Grid) -> np.ndarray:
    """Point spread: Gaussian in the slice, a little cross-talk between neighbouring slices."""
    sigma = BLUR_MM / grid.spacing_mm[0]
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
