"""How a volume is shown: orientation, grey range, the part and the slices worth seeing."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from nibabel import orientations
from scipy import ndimage

Volumes = Mapping[str, np.ndarray]  # images by modality; masks by who drew them, rater or run

# Okabe and Ito's palette: told apart with any colour vision, and bright enough on grey tissue.
RATER_COLOURS = ("#56B4E9", "#F0E442", "#FFFFFF")
RUN_COLOURS = ("#D55E00", "#009E73", "#CC79A7", "#E69F00", "#0072B2")

_MIN_SLICES, _MAX_SLICES = 3, 6


class RadiologicalView:
    """Turns [slice, x, y] arrays into [slice, row, column] pictures in radiological display.

    The world axes left, posterior, inferior, less the slice axis, become column and row.
    """

    def __init__(self, affine: np.ndarray, spacing_mm: Sequence[float]):
        source = orientations.io_orientation(affine)
        self.transform = orientations.ornt_transform(source, orientations.axcodes2ornt("LPI"))
        self.transform[2, 1] = 1  # the slices stay in the file's order
        self.slice_axis = int(self.transform[2, 0])
        by_axis = np.empty(3)
        by_axis[self.transform[:, 0].astype(int)] = [spacing_mm[1], spacing_mm[2], spacing_mm[0]]
        column_mm, row_mm = np.delete(by_axis, self.slice_axis)
        self.spacing_mm = (float(spacing_mm[0]), float(row_mm), float(column_mm))
        self.aspect = row_mm / column_mm
        column, row = np.delete(list("LPI"), self.slice_axis)
        slices = ("LPI", "RAS")[int(source[2, 1] > 0)][self.slice_axis]
        #: Where slices, rows and columns run to, a letter each.
        self.directions = f"{slices}{row}{column}"
        self.column_ends = "AP" if self.slice_axis == 0 else "RL"

    def __call__(self, array: np.ndarray) -> np.ndarray:
        turned = orientations.apply_orientation(np.moveaxis(array, 0, 2), self.transform)
        return np.moveaxis(turned, self.slice_axis, 0).swapaxes(1, 2)


def head_limits(
    pictures: Sequence[np.ndarray],
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Limits of rows and columns around a head, found by brightness, and around every mask.

    Args:
        pictures: float images and bool masks [slice, row, column].

    Returns:
        (last row, first row), (first column, last column), with a margin of 4 that may reach
        beyond the picture.
    """
    found = [_shadow(picture) for picture in pictures]
    rows, columns = (np.concatenate(places) for places in zip(*found, strict=True))
    if not rows.size:
        rows, columns = (np.array([0, size - 1]) for size in pictures[0].shape[1:])
    return (rows.max() + 4, rows.min() - 4), (columns.min() - 4, columns.max() + 4)


def _shadow(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns where a mask is on any slice; where an image is bright, noise left out."""
    if picture.dtype == bool:
        return np.nonzero(picture.any(axis=0))
    sample = np.ascontiguousarray(_sample(picture))
    step = -(-picture.shape[1] // sample.shape[1])
    finite = sample[np.isfinite(sample)]
    bright = sample > 0.1 * (np.percentile(finite, 99.5) if finite.size else 0)
    # A speck of noise is alone: in its slice, or among its neighbours.
    shadow = bright.sum(axis=0, dtype=np.uint16) >= min(2, len(bright))
    opened = ndimage.binary_opening(shadow, np.ones((3, 3), bool))
    rows, columns = np.nonzero(opened if opened.any() else shadow)
    return rows * step, columns * step


def _sample(image: np.ndarray) -> np.ndarray:
    """Every fourth voxel of a large image, which is enough for a percentile."""
    return image[:, ::2, ::2] if image.size > 200_000 else image


def lesion_by_slice(masks: Iterable[np.ndarray], n_slices: int) -> np.ndarray:
    """How much lesion each slice holds, summed over masks [slice, ...].

    Each mask shares out 1 among its slices: a large false positive must not hide a small lesion.
    """
    lesion = np.zeros(n_slices)
    for mask in masks:
        counts = np.array([np.count_nonzero(part) for part in mask])
        lesion += counts / max(counts.sum(), 1)
    return lesion


def busiest_slices(contours: Mapping[str, Volumes], n_slices: int) -> list[int]:
    """Three to six slices with most lesion, else around the middle."""
    drawn = (mask for masks in contours.values() for mask in masks.values())
    lesion = lesion_by_slice(drawn, n_slices)
    centre = int(lesion.argmax()) if lesion.any() else n_slices // 2
    order = np.lexsort((np.abs(np.arange(n_slices) - centre), -lesion))
    count = np.clip(np.count_nonzero(lesion), _MIN_SLICES, _MAX_SLICES)
    return sorted(int(index) for index in order[:count])


def grey_window(modality: str, image: np.ndarray) -> tuple[float, float]:
    """Grey range: ADC 0 to 2 where its median says 1e-3 mm2/s, else the head's 1-99.5 %."""
    image = _sample(image)
    positive = image[np.isfinite(image) & (image > 0)]
    if not positive.size:
        return 0.0, 1.0
    if modality == "adc" and 0.1 < np.median(positive) < 10:
        return 0.0, 2.0
    head = positive[positive > 0.1 * np.percentile(positive, 99.5)]
    low, high = np.percentile(head, (1, 99.5))
    return (low, high) if high > low else (0.0, high)
