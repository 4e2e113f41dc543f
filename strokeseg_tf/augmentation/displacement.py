"""Where each pixel of an augmented slice is sampled: geometric transforms as positions.

A transform is a function of output positions, in pixels, to input positions. The smooth ones are
composed at the points of a coarse lattice, between which positions are interpolated; the elastic
one adds a crop of a large field of noise. Each draws what albumentations 2.0.8 draws with its
defaults.
"""

import functools
from statistics import NormalDist

import cv2
import numpy as np

#: Pixels between the points of the lattice. At 224 x 224 and the paper's magnitudes interpolation
#: misses the exact map by less than a tenth of a pixel but where cells of the grid distortion meet.
SPACING = 4

#: Whole cells of the grid distortion along each axis (albumentations: 5).
GRID_CELLS = 5

#: How much larger than a slice the field of noise is along each axis, in pixels.
NOISE_MARGIN = 512


class Lattice:
    """Points over a square slice and a little beyond, `SPACING` apart.

    Args:
        size: Height and width of the slice in pixels.

    Attributes:
        x, y: Positions of the points in pixels, float64 `(1, points)` and `(points, 1)`: a
            transform along the axes works on these few, and broadcasting does the rest.
    """

    def __init__(self, size):
        self._size = size
        cells = -(-size // SPACING)
        # OpenCV's resize puts value j at pixel 4 j + 1.5; its first four pixels are cut off.
        points = SPACING * np.arange(-1.0, cells + 1) + (SPACING - 1) / 2
        self.x, self.y = points[None], points[:, None]

    def interpolate(self, x, y):
        """Positions at the points -> positions at the pixels, float32 `(size, size, 2)`."""
        coarse = np.stack(np.broadcast_arrays(x, y), -1, dtype=np.float32)
        fine = cv2.resize(coarse, None, fx=SPACING, fy=SPACING, interpolation=cv2.INTER_LINEAR)
        return fine[SPACING:, SPACING:][: self._size, : self._size]


def flip_columns(x, y, size):
    """The first column becomes the last."""
    return size - 1 - x, y


def flip_rows(x, y, size):
    """The first row becomes the last."""
    return x, size - 1 - y


def transpose(x, y, size):
    """Rows become columns."""
    return y, x


def rotate(x, y, rng, limit, size):
    """Rotation about the slice's centre, by up to `limit` degrees either way."""
    angle = np.deg2rad(rng.uniform(-limit, limit))
    cosine, sine = np.cos(angle), np.sin(angle)
    centre = (size - 1) / 2
    x, y = x - centre, y - centre
    return cosine * x - sine * y + centre, sine * x + cosine * y + centre


def distort_grid(x, y, rng, limit, size):
    """Columns and rows of cells stretched by 1 +- `limit`, then all to the slice's size again."""
    shares = _shares_of_cells(size)
    # Beyond the slice positions stay beyond it.
    pixels = np.concatenate([[-size], np.arange(size), [2 * size]])
    stretched = []
    for positions in (x, y):
        lengths = rng.uniform(1 - limit, 1 + limit, GRID_CELLS + 1)
        ends = shares @ lengths * (size / (shares[-1] @ lengths))
        stretched.append(np.interp(positions, pixels, [-size, *ends, 2 * size]))
    return stretched


@functools.cache
def _shares_of_cells(size):
    """The length of each cell that lies before each pixel, `(size, GRID_CELLS + 1)`.

    The last cell is what the whole ones leave. As in albumentations a cell's first and last pixels
    lie on its ends, so that neighbours meet in the same position.
    """
    width = size // GRID_CELLS
    starts = width * np.arange(GRID_CELLS + 1)
    widths = np.minimum(starts + width, size) - starts
    within = np.arange(size)[:, None] - starts
    return widths * np.clip(within / np.maximum(widths - 1, 1), 0, 1)


def distort_lens(x, y, rng, limit, size):
    """A camera's radial distortion: offset times 1 + k (r^2 + r^4), k up to `limit` either way.

    The offset and its length r are from the centre, r in units of the slice's size (OpenCV's camera
    model with k1 = k2 = k and a focal length of `size`).
    """
    k = rng.uniform(-limit, limit)
    centre = (size - 1) / 2
    x, y = x - centre, y - centre
    squared = (x * x + y * y) / size**2
    factor = 1 + k * (squared + squared * squared)
    # Half a pixel further, as in albumentations, where the camera's centre is size / 2.
    return x * factor + size / 2, y * factor + size / 2


#: Smooth transforms: (function, field of `AugmentationSettings` with its limit), in the order in
#: which they apply to the image.
SMOOTH_WARPS = {
    "rotation": (rotate, "rotation_degrees"),
    "grid_distortion": (distort_grid, "grid_distortion"),
    "optical_distortion": (distort_lens, "optical_distortion"),
}


class ElasticNoise:
    """Smoothed noise that is added to positions.

    albumentations divides white Gaussian noise by its largest magnitude, smooths it with a Gaussian
    of `sigma` and multiplies it by `alpha`. Smoothed noise looks alike everywhere, so crops of one
    large field, at random places and of either sign, stand for it. The largest magnitude of n
    normal numbers has the distribution function (2 Phi(m) - 1)^n, from which it is drawn. Not
    reproduced: stronger noise within some `sigma` of the border, where the reference repeats the
    outermost noise while it smooths.

    Args:
        alpha: Factor in pixels.
        sigma: Of the smoothing, in pixels.
        size: Height and width of the slices in pixels.
        seed: Of the field, from 0.
    """

    def __init__(self, alpha, sigma, size, seed):
        self._alpha, self._size = alpha, size
        self._places = NOISE_MARGIN + round(10 * sigma)
        side = size + self._places - 1
        noise = np.random.default_rng([seed, size]).standard_normal((side, side, 2), np.float32)
        self._field = cv2.GaussianBlur(noise, (0, 0), sigma)

    def add(self, rng, positions):
        """Positions, float32 `(size, size, 2)`, moved by noise drawn anew."""
        row, column = rng.integers(0, self._places, 2)
        crop = self._field[row : row + self._size, column : column + self._size]
        below = rng.random() ** (1 / (2 * self._size**2))
        largest = NormalDist().inv_cdf((1 + below) / 2)
        factor = self._alpha / largest * rng.choice((-1, 1))
        return cv2.scaleAdd(crop, factor, positions)


class Warp:
    """The geometric transforms, composed.

    Args:
        settings: `strokeseg_tf.config.AugmentationSettings`.
        seed: Of the field of elastic noise.
        size: Height and width of the slices in pixels.
    """

    def __init__(self, settings, seed, size):
        self._probability, self._size = settings.probability, size
        self._lattice = Lattice(size)
        limits = [(warp, getattr(settings, field)) for warp, field in SMOOTH_WARPS.values()]
        self._smooth = [(warp, limit) for warp, limit in limits if limit]
        self._noise = ElasticNoise(*settings.elastic, size, seed) if settings.elastic else None

    def draw(self, rng, turns):
        """Draw the transforms behind flips and transpose, and compose all.

        Args:
            rng: `np.random.Generator`.
            turns: What was drawn of `flip_columns`, `flip_rows` and `transpose`, in order.

        Returns:
            Positions to sample, x and y in pixels, float32 `(size, size, 2)`; None where nothing
            but `turns` was drawn.
        """
        smooth = [warp for warp in self._smooth if rng.random() < self._probability]
        elastic = self._noise is not None and rng.random() < self._probability
        if not smooth and not elastic:
            return None
        x, y = self._lattice.x, self._lattice.y
        for warp, limit in reversed(smooth):  # From the output back to the input.
            x, y = warp(x, y, rng, limit, self._size)
        for turn in reversed(turns):
            x, y = turn(x, y, self._size)
        positions = self._lattice.interpolate(x, y)
        # The noise is alike in all directions and places: it may as well be added last.
        return self._noise.add(rng, positions) if elastic else positions
