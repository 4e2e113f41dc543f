"""Acute infarcts for the phantom, and the two raters who outline them.

A lesion is a pair of distance-like maps in mm, positive inside: `margin_mm` bounds what is bright
on DWI, `core_mm` bounds where the ADC has fallen. The images are made from these maps and rater R1
follows their zero contours, so that what R1 draws can be learnt from what the images show. R2
departs from R1 by habit, by shape and by missing foci, until a drawn level of agreement is met.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from tfrecord_tools.phantom.anatomy import (
    BRAINSTEM,
    CEREBELLUM,
    CEREBRUM,
    Anatomy,
    ScanBlock,
    smooth_field,
)

# Volumes over stroke patients: 5, 50 and 95 % percentiles in ml.
VOLUME_PERCENTILES_ML = (0.3, 13.0, 200.0)
NORMAL_95 = 1.6449
MASK_KEYS = (("r1", "adc"), ("r1", "dwi"), ("r2", "adc"), ("r2", "dwi"))
# Dice between the raters in a median patient. The paper's mean kappas (0.65 and 0.70) are higher
# because controls count as 1 and because no outline strays further than STRAY_LIMIT.
RATER_DICE = {"adc": 0.49, "dwi": 0.59}
STRAY_LIMIT = 0.45  # of the lesion's radius
MEDIAN_RADIUS_MM = 14.6  # a sphere of 13 ml
# Where the vessels of the cerebrum end: a box (low, high) in mm of (|x|, y, z).
TERRITORIES = {
    "middle": ((20, -52, -40), (80, 42, 60)),
    "anterior": ((2, 0, 0), (20, 80, 75)),
    "posterior": ((2, -90, -30), (42, -48, 30)),
}
# Perforator territory: thalamus, capsule, putamen, corona radiata.
DEEP_BOX = ((8, -25, -4), (32, 24, 36))


@dataclass(frozen=True)
class Lesion:
    """An acute infarct over the flat voxels of an `Anatomy`.

    Attributes:
        margin_mm: float32 (n,), about the distance in mm to the edge of the DWI brightness.
        core_mm: float32 (n,), the same for the edge of the ADC reduction.
        focus: int16 (n,), which focus a voxel belongs to.
        radius_mm: radius of the sphere of the same volume, the yardstick of every roughness.
    """

    margin_mm: np.ndarray
    core_mm: np.ndarray
    focus: np.ndarray
    radius_mm: float


class FlatFields:
    """Smooth random fields over the flat voxels of an anatomy."""

    def __init__(self, rng: np.random.Generator, block: ScanBlock, anatomy: Anatomy) -> None:
        self._rng, self._block, self._anatomy = rng, block, anatomy

    def draw(self, scale_mm: float) -> np.ndarray:
        """A field of variance 1 and the given grain, float32 (n,)."""
        return smooth_field(self._rng, self._block, scale_mm)[self._anatomy.inside]


def draw_lesion_volume_ml(rng: np.random.Generator, size: int | None = None) -> float | np.ndarray:
    """Lesion volumes in ml, log-normal with a longer lower tail, within [0.06, 260].

    Args:
        rng: the random source.
        size: how many; None for one float.

    Returns:
        A float, or float64 (size,), with 5, 50 and 95 % percentiles near 0.3, 13 and 200 ml.
    """
    low, middle, high = np.log(VOLUME_PERCENTILES_ML)
    z = rng.standard_normal(size)
    slope = np.where(z < 0, middle - low, high - middle) / NORMAL_95
    volume = np.clip(np.exp(middle + slope * z), 0.06, 260.0)
    return float(volume) if size is None else volume


def draw_lesion(rng: np.random.Generator, block: ScanBlock, anatomy: Anatomy) -> Lesion:
    """Draws one patient's infarct: lacunar, scattered or territorial, after its volume.

    Args:
        rng: the random source.
        block: the block that is sampled.
        anatomy: the head.

    Returns:
        The lesion over the flat voxels of `anatomy`.
    """
    volume_ml = draw_lesion_volume_ml(rng)
    kind = _draw_kind(rng, volume_ml)
    potential, focus = POTENTIALS[kind](rng, anatomy, volume_ml)
    brain = _drawable(anatomy)
    volume_ml = min(volume_ml, 0.2 * brain.sum() * block.voxel_ml)
    radius = float(np.cbrt(volume_ml * 1000 / np.sqrt(focus.max() + 1) * 3 / (4 * np.pi)))
    fields = FlatFields(rng, block, anatomy)
    coarse, fine = np.clip(0.9 * radius, 5, 22), np.clip(0.35 * radius, 3.5, 7)
    potential += np.float32(0.2 * radius) * fields.draw(coarse)
    potential += np.float32(0.11 * radius) * fields.draw(fine)
    potential[~brain] = np.inf
    count = max(int(round(volume_ml / block.voxel_ml)), 2)
    margin = np.partition(potential, count)[count] - potential
    core = _draw_core(rng, fields, margin, radius)
    return Lesion(margin, core, focus, radius)


def _draw_kind(rng: np.random.Generator, volume_ml: float) -> str:
    """Small infarcts are mostly lacunar, middling ones often scattered, large ones territorial."""
    if volume_ml < 1.5:
        return rng.choice(["lacunar", "scattered"], p=[0.65, 0.35])
    scattered = 0.45 if volume_ml < 25 else 0.12
    return rng.choice(["scattered", "territorial"], p=[scattered, 1 - scattered])


def _seed(rng, anatomy, candidates) -> int:
    """One flat voxel among `candidates` (bool (n,)), or any of the brain where there is none."""
    brain = (anatomy.csf < 0.3) & (anatomy.depth_mm > 0)
    chosen = np.flatnonzero(candidates & brain)
    return int(rng.choice(chosen if chosen.size else np.flatnonzero(brain)))


def _in_box(points_mm: np.ndarray, box) -> np.ndarray:
    """Whether points (3, n) lie in a box of (|x|, y, z), bool (n,)."""
    low, high = (np.float32(corner) for corner in box)
    x, y, z = np.abs(points_mm[0]), points_mm[1], points_mm[2]
    return np.logical_and.reduce([(low[i] < c) & (c < high[i]) for i, c in enumerate((x, y, z))])


def _other_part(anatomy: Anatomy, seed: int) -> np.ndarray:
    """Penalty in mm (n,) that keeps an infarct in its own part of the brain and on its side."""
    penalty = 60.0 * (anatomy.part != anatomy.part[seed])
    if anatomy.part[seed] != BRAINSTEM:
        side = np.sign(anatomy.points_mm[0, seed])
        penalty = penalty + 6.0 * np.maximum(1.5 - side * anatomy.points_mm[0], 0)
    return penalty.astype(np.float32)


def _territorial(rng, anatomy, volume_ml):
    """A wedge with its base on the cortex, narrowing towards the vessel's origin.

    Returns, as all `POTENTIALS` do, a distance-like map in mm (n,), lowest where the infarct
    starts, and the focus (n,) each voxel belongs to.
    """
    points = anatomy.points_mm
    if rng.random() < 0.1 and volume_ml < 40:
        where, box = anatomy.part == CEREBELLUM, None
    else:
        names, weights = list(TERRITORIES), (0.74, 0.09, 0.17)
        # Only the middle territory has room for the largest infarcts.
        box = TERRITORIES["middle" if volume_ml > 60 else rng.choice(names, p=weights)]
        where = _in_box(points, box) & (anatomy.part == CEREBRUM)
    seed = _seed(rng, anatomy, where & (anatomy.depth_mm < 5))
    base = points[:, seed]
    # Vessels of the cerebrum fan out from beside the ventricles, those of the cerebellum do not.
    origin = np.float32((np.sign(base[0]) * 18, 0, 5)) if box else base / 2
    apex = base / 4 + 0.75 * origin
    axis = base - apex
    reach = np.sqrt(axis @ axis)
    offset = points - apex[:, None]
    along = (axis / reach) @ offset
    across = np.sqrt(np.maximum((offset**2).sum(0) - along**2, 0))
    cone = across * reach / np.maximum(along, 0.3 * reach)
    potential = np.hypot(cone, 0.7 * np.maximum(reach - along, 0)) + _other_part(anatomy, seed)
    return potential + (_outside_mm(points, box) if box else 0), np.zeros(points.shape[1], np.int16)


def _outside_mm(points_mm: np.ndarray, box) -> np.ndarray:
    """Watershed: a soft penalty (n,) in mm for leaving a territory's box."""
    paired = (np.abs(points_mm[0]), points_mm[1], points_mm[2])
    excess = [
        np.maximum(lo - c, 0) + np.maximum(c - hi, 0)
        for c, lo, hi in zip(paired, *np.float32(box), strict=True)
    ]
    return np.float32(1.5) * np.sqrt(sum(e * e for e in excess))


def _lacunar(rng, anatomy, volume_ml):
    """One small ovoid in the deep nuclei, the white matter or the pons."""
    points = anatomy.points_mm
    pons = rng.random() < 0.2
    where = (anatomy.part == BRAINSTEM) if pons else _in_box(points, DEEP_BOX)
    seed = _seed(rng, anatomy, where & (anatomy.depth_mm > 4) & (anatomy.csf < 0.05))
    axes = np.exp(rng.normal(0, 0.25, 3)).astype(np.float32)
    offset = (points - points[:, seed, None]) / axes[:, None]
    potential = np.sqrt((offset**2).sum(0)) + _other_part(anatomy, seed)
    return potential, np.zeros(points.shape[1], np.int16)


def _scattered(rng, anatomy, volume_ml):
    """Emboli: two to a dozen foci of very different size, most of them near the cortex."""
    points = anatomy.points_mm
    foci = int(rng.integers(2, 5 if volume_ml < 1.5 else 12))
    one_sided = rng.random() < 0.6
    side = rng.choice((-1, 1))
    shallow = (anatomy.depth_mm > 2) & (anatomy.depth_mm < 10)
    where = shallow & (anatomy.part != BRAINSTEM) & (points[2] > -35)
    where &= (side * points[0] > 3) if one_sided else True
    distances = []
    scale = np.cbrt(volume_ml * 1000 / foci)
    for _ in range(foci):
        seed = _seed(rng, anatomy, where)
        axes = np.exp(rng.normal(0, 0.25, (3, 1))).astype(np.float32)
        offset = (points - points[:, seed, None]) / axes
        size = np.float32(scale * np.exp(rng.normal(0, 0.35)))
        distances.append(np.sqrt((offset**2).sum(0)) - size)
    return np.min(distances, axis=0), np.argmin(distances, axis=0).astype(np.int16)


POTENTIALS = {"territorial": _territorial, "lacunar": _lacunar, "scattered": _scattered}


def _draw_core(rng, fields, margin, radius_mm) -> np.ndarray:
    """The ADC lesion (n,) in mm: smaller than the DWI lesion and of another shape.

    Depends on the hours since onset: ADC falls first, T2 brightness spreads, ADC recovers.
    """
    target = np.clip(rng.normal(0.62, 0.10), 0.35, 0.85)
    uneven = fields.draw(np.clip(0.8 * radius_mm, 5, 18))
    departure = np.float32(radius_mm) * (0.45 * uneven - np.float32(rng.uniform(0.1, 0.5)))
    return depart_until(margin, departure, target, STRAY_LIMIT * radius_mm)


def depart_until(
    margin: np.ndarray, departure: np.ndarray, target: float, limit_mm: float
) -> np.ndarray:
    """Adds as much of `departure` to `margin` as brings the Dice of the two outlines to `target`.

    Up to three times the departure is tried; where that is too little, it is what is added.

    Args:
        margin: float32 (n,), positive inside.
        departure: float32 (n,), what to add.
        target: Dice in (0, 1) wanted between `margin > 0` and the result > 0.
        limit_mm: how far an outline may move outwards.

    Returns:
        float32 (n,).
    """
    limit = np.float32(limit_mm)
    near = np.flatnonzero(margin > -limit)
    here, change = margin[near], departure[near]
    low, high = 0.0, 3.0
    for _ in range(12):
        middle = np.float32((low + high) / 2)
        if dice(here > 0, here + np.minimum(middle * change, limit) > 0) > target:
            low = middle
        else:
            high = middle
    return margin + np.minimum(np.float32(low) * departure, limit)


def dice(first: np.ndarray, second: np.ndarray) -> float:
    """Dice overlap of two boolean arrays; 1 where both are empty."""
    total = int(first.sum()) + int(second.sum())
    return 2 * int((first & second).sum()) / total if total else 1.0


def _drawable(anatomy: Anatomy) -> np.ndarray:
    """Where an infarct can be and a rater would draw it, bool (n,): tissue, even if in part."""
    return (anatomy.csf < 0.7) & (anatomy.depth_mm > 0)


def swell(anatomy: Anatomy, lesion: Lesion) -> Anatomy:
    """The head with the sulci narrowed where the infarct swells."""
    return replace(anatomy, csf=anatomy.csf * (1 - 0.6 * _sigmoid(lesion.margin_mm)))


def apply_lesion(rng, block: ScanBlock, anatomy: Anatomy, lesion: Lesion):
    """Signal and ADC of the tissue with the infarct in it.

    Args:
        rng: the random source; draws how marked the lesion is, from faint to plain.
        block: the block that is sampled.
        anatomy: the head.
        lesion: the infarct.

    Returns:
        Two float32 (n,) arrays, b0 signal and ADC in 1e-3 mm2/s.
    """
    fields = FlatFields(rng, block, anatomy)
    soft = np.clip(0.12 * lesion.radius_mm, 0.4, 1.5)
    edge = _sigmoid(lesion.margin_mm / soft)
    core = _sigmoid(lesion.core_mm / soft)
    fall = np.clip(rng.normal(0.38, 0.05), 0.26, 0.5)
    glow = np.clip(rng.normal(0.47, 0.10), 0.25, 0.75)
    uneven = np.clip(1 + 0.2 * fields.draw(7.0), 0.4, 1.5)
    s0 = anatomy.s0 * (1 + glow * edge * uneven)
    adc = anatomy.adc * (1 - fall * uneven * np.maximum(core, 0.2 * edge))
    return s0.astype(np.float32), adc.astype(np.float32)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(x, -30, 30)))


def draw_masks(rng, block: ScanBlock, anatomy: Anatomy, lesion: Lesion) -> dict:
    """The outlines of both raters on both modalities.

    Args:
        rng: the random source.
        block: the block that is sampled.
        anatomy: the head.
        lesion: the infarct.

    Returns:
        {(rater, modality): bool (n,)} over the flat voxels, for the four `MASK_KEYS`.
    """
    fields = FlatFields(rng, block, anatomy)
    radius = np.float32(lesion.radius_mm)
    tremor = 0.05 * radius * fields.draw(np.clip(0.5 * radius, 4, 10))
    first = {"dwi": lesion.margin_mm + tremor, "adc": lesion.core_mm + tremor}
    # A study that is hard on one modality tends to be hard on the other.
    level = rng.standard_normal()
    habit = _departure(rng, fields, lesion)
    outlines = {}
    for modality, mean in RATER_DICE.items():
        mood = 0.95 * habit + 0.31 * _departure(rng, fields, lesion)
        target = mean + 0.15 * (0.8 * level + 0.6 * rng.standard_normal())
        target += 0.05 * np.log10(radius / MEDIAN_RADIUS_MM)
        outlines["r1", modality] = first[modality]
        outlines["r2", modality] = depart_until(
            first[modality], mood, np.clip(target, 0.1, 0.93), STRAY_LIMIT * lesion.radius_mm
        )
    drawable = _drawable(anatomy)
    return {key: _inked(outlines[key], drawable) for key in MASK_KEYS}


def _inked(outline: np.ndarray, drawable: np.ndarray) -> np.ndarray:
    """The mask (n,) of an outline; a patient's mask holds one voxel at least."""
    top = outline[drawable].max(initial=-np.inf)
    return drawable & (outline >= min(top, 0))


def _departure(rng, fields, lesion) -> np.ndarray:
    """How a rater's outline strays from the visible one, in mm (n,): size, shape, missed foci."""
    radius = np.float32(lesion.radius_mm)
    shape = fields.draw(np.clip(0.8 * radius, 4, 16))
    foci = int(lesion.focus.max()) + 1
    missed = np.float32(rng.random(foci) < (0.25 if foci > 1 else 0))
    stray = 0.35 * shape + np.float32(rng.normal(0.05, 0.3)) - 0.6 * missed[lesion.focus]
    return radius * stray
