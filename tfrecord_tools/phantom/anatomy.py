"""A schematic head in millimetres: folded brain, ventricles, nuclei, skull base, old damage.

Shapes are signed distances (negative inside, in mm) combined with minimum and maximum, so every
boundary is smooth and partial volume comes for free. Head coordinates are x to the patient's right,
y to the front and z to the vertex, with the origin between the thalami.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

CEREBRUM, CEREBELLUM, BRAINSTEM = 0, 1, 2
FOLD_WAVELENGTH_MM = 20.0
FOLD_LATTICE_MM = 3.5
CORTEX_MM = 3.3
SKULL_MM = 7.0

# One lateral ventricle on the right side: (x, y, z, radius) in mm from frontal to occipital horn,
# then the temporal horn from the atrium on.
VENTRICLE = ((17, 36, 11, 2.0), (11, 25, 13, 4.2), (6, 6, 16, 4.2), (9, -10, 20, 5.2),
             (18, -25, 18, 6.0), (26, -37, 11, 6.0), (25, -58, 6, 2.0))  # fmt: skip
TEMPORAL_HORN = ((27, -35, 4, 4.0), (33, -20, -12, 1.9), (30, 2, -20, 1.3))
# Deep grey nuclei on the right side: centre and semi-axes in mm.
NUCLEI = (
    ((13, 19, 9), (5, 10, 12)),  # head of the caudate
    ((27, 6, 3), (6, 16, 11)),  # putamen
    ((11, -14, 6), (9, 14, 10)),  # thalamus
)
PALLIDUM = ((19, 3, 1), (4.5, 9, 7))
EYE = ((31, 66, -34), (12, 12, 12))
SELLA = ((0, 4, -22), (24, 26, 12))  # the hollow of the skull base that holds the basal cisterns


@dataclass(frozen=True)
class ScanBlock:
    """The sampled block: `shape` in voxels, `spacing_mm` per axis, index 0 lying to the right."""

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in millilitres."""
        return float(np.prod(self.spacing_mm)) / 1000.0

    def axes_mm(self) -> list[np.ndarray]:
        """Coordinates along each axis in mm, float32, centred; the first axis runs to the left."""
        signs = (-1.0, 1.0, 1.0)
        return [
            (sign * step * (np.arange(count) - (count - 1) / 2)).astype(np.float32)
            for sign, step, count in zip(signs, self.spacing_mm, self.shape, strict=True)
        ]


@dataclass(frozen=True)
class Anatomy:
    """A head without acute lesion. Flat arrays list the voxels where `inside` is true, in C order.

    Attributes:
        inside: bool [x, y, z], voxels within the skull cavity or an eye.
        shell: float32 [x, y, z], b0 signal of skull, scalp and face outside of `inside`.
        points_mm: float32 (3, n), head coordinates.
        csf: float32 (n,), fraction of cerebrospinal fluid in [0, 1].
        s0: float32 (n,), b0 signal of the tissue part; grey matter is 1.
        adc: float32 (n,), ADC of the tissue part in 1e-3 mm2/s.
        depth_mm: float32 (n,), depth below the brain surface; negative outside of the brain.
        part: int8 (n,), CEREBRUM, CEREBELLUM or BRAINSTEM.
        gain: float32 (n,), pile-up and drop-out of signal near air, 1 where undisturbed.
    """

    inside: np.ndarray
    shell: np.ndarray
    points_mm: np.ndarray
    csf: np.ndarray
    s0: np.ndarray
    adc: np.ndarray
    depth_mm: np.ndarray
    part: np.ndarray
    gain: np.ndarray

    def volume(self, flat: np.ndarray) -> np.ndarray:
        """Spreads a flat array over [x, y, z], zero elsewhere, in the same dtype."""
        full = np.zeros(self.inside.shape, flat.dtype)
        full[self.inside] = flat
        return full


def smooth_field(rng: np.random.Generator, block: ScanBlock, scale_mm: float) -> np.ndarray:
    """A Gaussian random field with mean 0 and variance 1, float32 [x, y, z].

    Cubic B-splines with knots `scale_mm` apart carry white noise; one matrix product an axis.
    """
    weights = [_spline_weights(axis, scale_mm, rng.uniform()) for axis in block.axes_mm()]
    field = rng.standard_normal([w.shape[1] for w in weights], dtype=np.float32)
    field = np.tensordot(field, weights[2], (2, 1))
    field = np.tensordot(weights[1], field, (1, 1))
    return np.tensordot(weights[0], field, (1, 1))


def _spline_weights(axis_mm: np.ndarray, scale_mm: float, shift: float) -> np.ndarray:
    """Cubic B-spline weights (points, knots), rows of unit length so that variance is kept."""
    position = (axis_mm - axis_mm.min()) / scale_mm + 1 + shift
    knots = np.arange(int(position.max()) + 3)
    u = np.abs(position[:, None] - knots)
    weights = np.where(u < 1, 4 - 6 * u**2 + 3 * u**3, np.clip(2 - u, 0, None) ** 3)
    return (weights / np.linalg.norm(weights, axis=1, keepdims=True)).astype(np.float32)


def soft_step(distance_mm: np.ndarray, width_mm: float = 1.2) -> np.ndarray:
    """Fraction in [0, 1] of a voxel that lies inside a boundary at `distance_mm` (negative in)."""
    return np.clip(0.5 - distance_mm / width_mm, 0, 1)


def ellipsoid(points_mm: np.ndarray, centre_mm, semi_mm) -> np.ndarray:
    """Signed distance to an ellipsoid in mm, exact to first order near the surface."""
    scaled = [
        (p - c) / np.float32(s) for p, c, s in zip(points_mm, centre_mm, semi_mm, strict=True)
    ]
    radius = np.sqrt(sum(q * q for q in scaled)) + 1e-6
    gradient = np.sqrt(sum((q / np.float32(s)) ** 2 for q, s in zip(scaled, semi_mm, strict=True)))
    return radius * (radius - 1) / (gradient + 1e-6)


def tube(points_mm: np.ndarray, nodes) -> np.ndarray:
    """Signed distance in mm to a chain of capsules through `nodes` of (x, y, z, radius)."""
    distance = np.full(points_mm.shape[1], np.inf, np.float32)
    for start, end in zip(nodes[:-1], nodes[1:], strict=True):
        start, end = np.asarray(start, np.float32), np.asarray(end, np.float32)
        axis = end[:3] - start[:3]
        offset = points_mm - start[:3, None]
        along = np.clip(axis @ offset / (axis @ axis), 0, 1)
        gap = np.sqrt(((offset - axis[:, None] * along) ** 2).sum(0))
        distance = np.minimum(distance, gap - start[3] - along * (end[3] - start[3]))
    return distance


def mirrored(points_mm: np.ndarray) -> np.ndarray:
    """The points folded onto the right side, so that paired structures are written once."""
    return np.stack([np.abs(points_mm[0]), points_mm[1], points_mm[2]])


def build_anatomy(rng: np.random.Generator, block: ScanBlock) -> Anatomy:
    """Draws one head.

    Args:
        rng: source of all variation: age, size, tilt, asymmetry, folding, old damage.
        block: the block to sample.

    Returns:
        The anatomy on `block`.
    """
    age = rng.uniform(0, 1)
    points, head = _head_points(rng, block)
    parts = _brain_parts(points, 1.6 * smooth_field(rng, block, 12.0)[head])
    envelope = np.minimum.reduce(parts[:3])
    gap = (0.7 + 1.2 * age) * np.exp(0.5 * smooth_field(rng, block, 20.0)[head])
    cavity = np.minimum(envelope - gap, ellipsoid(points, *SELLA))
    shell = np.zeros(block.shape, np.float32)
    shell[head] = _shell_signal(rng, block, head, points, cavity)
    keep = np.minimum(cavity, ellipsoid(mirrored(points), *EYE)) < 0
    inside = head.copy()
    inside[head] = keep
    shell[inside] = 0
    points = points[:, keep]
    return _with_tissue(rng, block, age, inside, shell, points, [part[keep] for part in parts])


def _head_points(rng: np.random.Generator, block: ScanBlock) -> tuple[np.ndarray, np.ndarray]:
    """Head coordinates (3, n) of the voxels within the scalp, and that region [x, y, z].

    Size, tilt and a gentle bending differ between studies and break the left-right symmetry.
    """
    tilt = np.radians(rng.normal(0, (4.0, 2.0, 3.0)))
    size = rng.normal(1.0, 0.03) * rng.normal(1.0, 0.02, 3)
    turn = (rotation(tilt) / np.clip(size, 0.9, 1.07)[:, None]).astype(np.float32)
    shift = rng.normal((0, -3, 4), (1.5, 2.0, 3.0)).astype(np.float32)
    x, y, z = np.meshgrid(*block.axes_mm(), indexing="ij", sparse=True)
    shifted = (x + shift[0], y + shift[1], z + shift[2])
    axes = [sum(weight * c for weight, c in zip(row, shifted, strict=True)) for row in turn]
    # Below the brain the head goes on as a neck and a face, so only the top is rounded off.
    taper = 1 - 0.0012 * axes[1]
    radius = (axes[0] / 77 / taper) ** 2 + (axes[1] / 97) ** 2
    radius = radius + np.where(axes[2] > 0, axes[2] / 84, axes[2] / 190) ** 2
    head = radius < 1.0
    bend = [smooth_field(rng, block, 45.0)[head] * amount for amount in (2.2, 2.2, 1.5)]
    return np.stack([a[head] + b for a, b in zip(axes, bend, strict=True)]).astype(np.float32), head


def rotation(angles) -> np.ndarray:
    """Rotation matrix (3, 3) from angles about x, y and z in radians, applied in that order."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(angles), np.sin(angles)
    about_x = np.array(((1, 0, 0), (0, cx, -sx), (0, sx, cx)))
    about_y = np.array(((cy, 0, sy), (0, 1, 0), (-sy, 0, cy)))
    about_z = np.array(((cz, -sz, 0), (sz, cz, 0), (0, 0, 1)))
    return about_z @ about_y @ about_x


def _brain_parts(points: np.ndarray, ripple: np.ndarray) -> list[np.ndarray]:
    """Signed distances in mm to cerebrum, cerebellum and brainstem, and to the uncut cerebrum.

    `ripple` (n,) in mm keeps the outlines from looking like the ellipsoids they are.
    """
    paired = mirrored(points)
    x, y, z = points
    low = np.minimum(z, 0)
    # Narrower in front and square at the temples; the floor is flat, the crown round.
    width = x / (1 - 0.0009 * y - 0.10 * (y / 85) ** 2 + 0.04)
    egg = np.stack([width, y, np.where(z > 0, z, -low * low / 14)])
    hull = ellipsoid(egg, (0, 0, 0), (66, 86, 69))
    hull = np.minimum(hull, ellipsoid(paired, (42, 6, -24), (23, 40, 23))) + 0.5 * ripple
    cerebellum = _merged(
        ellipsoid(paired, (25, -50, -46), (30, 28, 19)),
        ellipsoid(points, (0, -44, -36), (15, 21, 19)),
    )
    stem = tube(points, ((0, -14, -20, 10), (0, -13, -36, 15), (0, -28, -62, 9), (0, -34, -95, 7)))
    stem = stem + ripple
    cerebellum = np.maximum(cerebellum + ripple, 1.0 - stem)
    # The midbrain is wrapped in fluid from behind only: in front it joins the cerebrum.
    ambient = np.maximum(np.maximum(stem - 1.2, z + 9), np.minimum(y + 12, z + 22))
    cisterns = np.minimum(ambient, _basal_cistern_mm(paired) + ripple)
    cerebrum = np.maximum.reduce([hull, 1.2 - cerebellum, -cisterns])
    return [cerebrum, cerebellum, stem, hull]


def _basal_cistern_mm(paired: np.ndarray) -> np.ndarray:
    """Signed distance (n,) in mm to the star of fluid above the sella."""
    arms = (
        ((0, 12, -21, 5.0), (17, 13, -18, 2.2), (30, 16, -14, 1.2)),
        ((0, 12, -21, 5.0), (14, -5, -19, 2.5), (17, -18, -17, 1.5)),
        ((0, 12, -21, 5.0), (0, 30, -18, 1.5)),
    )
    return np.minimum.reduce([tube(paired, np.array(arm)) for arm in arms])


def _merged(first: np.ndarray, second: np.ndarray, blend_mm: float = 9.0) -> np.ndarray:
    """Union of two signed distances with the crease between them filled."""
    overlap = np.maximum(blend_mm - np.abs(first - second), 0)
    return np.minimum(first, second) - overlap * overlap / (4 * blend_mm)


def _shell_signal(rng, block, head, points, cavity) -> np.ndarray:
    """b0 signal (n,) outside of the brain: dark bone, faint scalp, patchy face with air in it."""
    patch = smooth_field(rng, block, 11.0)[head]
    bone = soft_step(np.abs(cavity - SKULL_MM / 2) - SKULL_MM / 2, 2.0)
    face = soft_step(points[2] + 22, 20.0) * soft_step(-points[1] - 5, 30.0)
    soft = 0.30 + 0.08 * patch + face * np.clip(0.22 * patch, -0.3, 0.4)
    return np.clip(soft * (1 - bone) + 0.03, 0.02, None)


def _with_tissue(rng, block, age, inside, shell, points, parts) -> Anatomy:
    """Fills the cavity with fluid, cortex, white matter and nuclei."""
    part = np.argmin(parts[:3], axis=0).astype(np.int8)
    depth = -np.minimum.reduce(parts[:3])
    folded = np.minimum(depth, _pial_mm(rng, block, age, inside, points, -parts[3]))
    pial = np.where(part == CEREBRUM, folded, depth)
    pial = np.where(part == CEREBELLUM, _folia_mm(points, depth), pial)
    ventricle = _ventricle_mm(points, 0.65 + 0.75 * age + rng.normal(0, 0.12))
    eye = ellipsoid(mirrored(points), *EYE)
    csf = np.maximum.reduce([soft_step(pial), soft_step(ventricle), soft_step(eye)])
    cortex = soft_step(pial - np.where(part == CEREBELLUM, 5.0, CORTEX_MM), 1.6)
    cortex *= soft_step(4 - parts[BRAINSTEM], 3.0)
    s0, adc = _tissue_signal(rng, block, inside, points, cortex, age)
    _add_old_damage(rng, block, inside, points, ventricle, cortex, age, s0, adc)
    gain = _susceptibility(rng, block, inside, points)
    return Anatomy(inside, shell, points, csf, s0, adc, depth, part, gain)


def _pial_mm(rng, block, age, inside, points, depth) -> np.ndarray:
    """Distance (n,) in mm to the nearest fluid of the cerebral surface; negative inside a sulcus.

    Sulci are the zero sheets of a band-passed field that hardly changes along the radius, so they
    run inwards from the surface and look like a labyrinth where a slice grazes the vertex.
    """
    radius = np.sqrt((points**2).sum(0)) + 1.0
    swirl = np.stack([smooth_field(rng, block, 13.0)[inside] * 3.0 for _ in range(3)])
    stretched = points * (75 / np.maximum(radius, 25)) ** np.float32(0.72) + swirl
    sheet = np.abs(_sample_folds(rng, stretched)) * FOLD_WAVELENGTH_MM / (2 * np.pi)
    floor = np.clip(15 + 6 * smooth_field(rng, block, 18.0)[inside], 4, 26)
    width = (0.55 + 0.7 * age) * (1.2 - 0.7 * depth / floor) + 0.8 * np.exp(-depth / 3)
    sulci = np.hypot(sheet, np.maximum(depth - floor, 0)) - np.clip(width, 0.2, None)
    wobble = points[0] + 1.2 * smooth_field(rng, block, 25.0)[inside]
    callosum = ellipsoid(points, (0, -2, 4), (60, 46, 27))
    fissure = np.hypot(wobble, np.minimum(callosum, 0)) - 0.6 - 0.8 * age
    return np.minimum.reduce([depth, sulci, fissure, _sylvian_mm(points + swirl, age)])


def _sample_folds(rng: np.random.Generator, points: np.ndarray) -> np.ndarray:
    """A band-passed Gaussian field of unit variance at `points` (3, n), float32 (n,)."""
    sigma = FOLD_WAVELENGTH_MM / (2 * np.pi) / FOLD_LATTICE_MM
    noise = rng.standard_normal((64, 64, 64), dtype=np.float32)
    field = ndimage.gaussian_filter(noise, 1.15 * sigma, mode="wrap", truncate=3)
    field -= ndimage.gaussian_filter(field, 1.3 * sigma, mode="wrap", truncate=3)
    field /= field.std()
    return ndimage.map_coordinates(field, points / FOLD_LATTICE_MM + 32, order=1, mode="wrap")


def _sylvian_mm(points: np.ndarray, age: float) -> np.ndarray:
    """Distance (n,) in mm to the fluid over the insula and in the stem of the lateral fissure."""
    paired = mirrored(points)
    rise = points[2] - 1 + 0.25 * points[1]
    height = np.maximum(np.abs(rise) - 13, 0)
    flat = np.stack([paired[0], paired[1], height])
    insula = tube(flat, ((39, 25, 0, 0), (43, 8, 0, 0), (43, -9, 0, 0)))
    stem = tube(flat, ((43, 4, 0, 0), (58, 6, 0, 0), (74, 2, 0, 0)))
    return np.minimum(insula, stem) - 0.8 - 1.5 * age


def _folia_mm(points: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Distance (n,) in mm to the fluid of the fine cerebellar fissures."""
    paired = mirrored(points)
    radius = np.sqrt(((paired - np.float32([[6], [-14], [-38]])) ** 2).sum(0))
    stripe = np.abs(np.sin(radius * (np.pi / 7.0))) * 2.2
    return np.minimum(depth, np.hypot(stripe, np.maximum(depth - 10, 0)) - 0.05)


def _ventricle_mm(points: np.ndarray, size: float) -> np.ndarray:
    """Signed distance (n,) in mm to the ventricles, `size` 1 being a middle-aged brain's."""
    paired = mirrored(points)
    scale = np.array((1, 1, 1, max(size, 0.45)))
    # Taller than wide: squeezing the height before measuring stretches the shape.
    squeezed = np.stack([paired[0], paired[1], 15 + 0.6 * (paired[2] - 15)])
    lateral = tube(squeezed, np.array(VENTRICLE) * scale)
    horn = tube(paired, np.array(TEMPORAL_HORN) * scale)
    third = tube(points, np.array(((0, 6, -6, 1.8), (0, -4, 4, 2.4), (0, -20, 4, 2.2))) * scale)
    fourth = ellipsoid(points, (0, -30, -34), (7, 4, 9))
    return np.minimum.reduce([lateral, horn, third, fourth])


def _tissue_signal(rng, block, inside, points, cortex, age) -> tuple[np.ndarray, np.ndarray]:
    """b0 signal and ADC (1e-3 mm2/s) of the tissue, both float32 (n,)."""
    paired = mirrored(points)
    nuclei = [soft_step(ellipsoid(paired, *nucleus), 2.0) for nucleus in NUCLEI]
    grey = np.maximum.reduce([cortex, *(0.8 * nucleus for nucleus in nuclei)])
    pallidum = soft_step(ellipsoid(paired, *PALLIDUM), 3.0)
    texture = smooth_field(rng, block, 9.0)[inside]
    tracts = smooth_field(rng, block, 16.0)[inside]
    # Insula and cingulate cortex shine on every diffusion image.
    bright = np.exp(-(((paired[0] - 41) / 6) ** 2 + ((points[1] - 8) / 22) ** 2))
    bright += 0.6 * np.exp(-((paired[0] / 7) ** 2 + ((points[2] - 34) / 16) ** 2))
    s0 = 0.78 + 0.27 * grey + 0.012 * texture + 0.02 * tracts * (1 - grey) + 0.11 * bright * cortex
    s0 *= 1 - 0.30 * pallidum
    adc = 0.77 + 0.05 * age + 0.07 * grey + 0.02 * texture - 0.025 * tracts * (1 - grey)
    return s0.astype(np.float32), adc.astype(np.float32)


def _add_old_damage(rng, block, inside, points, ventricle, cortex, age, s0, adc) -> None:
    """Adds white-matter change and chronic scars in place: long T2, ADC raised, never low."""
    patch = smooth_field(rng, block, 8.0)[inside]
    reach = 1.0 + 5.5 * max(age - 0.25, 0)
    caps = soft_step(ventricle - reach - 1.5 * patch, 3.0) * (1 - cortex)
    spots = np.clip(patch - (2.6 - 0.7 * age), 0, 0.6) / 0.6 * (1 - cortex)
    scars = np.zeros_like(s0)
    for _ in range(rng.poisson(0.3 + 1.2 * age)):
        centre = points[:, rng.integers(points.shape[1])]
        semi = rng.uniform(3, 10, 3)
        scars = np.maximum(scars, soft_step(ellipsoid(points, centre, semi) - 1.5 * patch, 3.0))
    white = 0.7 * np.maximum(caps, spots)
    raised = rng.uniform(0.2, 0.8) * scars + 0.25 * white
    adc += raised
    # Shine-through: the T2 gain outweighs the loss that the raised ADC causes.
    s0 *= 1 + rng.uniform(0.45, 0.8) * scars * (1 + raised) + 0.5 * white


def _susceptibility(rng, block, inside, points) -> np.ndarray:
    """Signal gain (n,) near frontal sinus and petrous bone: bright rims around dark holes."""
    paired = mirrored(points)
    ripple = 3.0 * smooth_field(rng, block, 10.0)[inside]
    strength = rng.uniform(0.2, 0.9)
    orbit = ellipsoid(points, (rng.normal(0, 5), 66, -32), (24, 20, 14)) + ripple
    petrous = ellipsoid(paired, (50, -16, -44), (13, 11, 11)) + ripple
    gain = np.ones(points.shape[1], np.float32)
    for air in (orbit, petrous):
        rim = np.exp(-(((air - 4) / 3.0) ** 2))
        gain *= (1 + strength * rim) * (1 - 0.6 * soft_step(air, 8.0))
    return gain
