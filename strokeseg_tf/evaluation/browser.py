"""What the report's study browser shows of one case, small enough to keep while cases stream by."""

import functools
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from strokeseg_tf.evaluation.display import (
    RadiologicalView,
    grey_window,
    head_limits,
    lesion_by_slice,
)

if TYPE_CHECKING:
    from strokeseg_tf.evaluation.case import Case

TILE = 176  # longest side of a slice in a sheet, pixels
_QUALITY = 72
_BRAIN_SIDE = 72  # longest side of a slice of the brain's mask, voxels
# Longest side, quality, and the share of the bytes that pictures of heads were seen to take then.
_SMALLER = (
    (TILE, 45, 0.88),
    (144, 45, 0.57),
    (112, 40, 0.4),
    (88, 35, 0.28),
    (64, 30, 0.18),
    (48, 25, 0.12),
)


MaskKey = tuple[str, str, str]  # ("rater" | "run", its name, modality)


@dataclass(frozen=True)
class StudyView:
    """A case for the browser: pictures as compressed sheets, masks as run lengths.

    Attributes:
        study: study id.
        group: "stroke" or "control".
        shape: slices, rows and columns of the cropped masks, in radiological display.
        spacing_mm: of the same axes.
        directions: towards which world axis each of them runs: "R", "L", "A", "P", "S" or "I".
        start: index of the slice with most lesion as the raters saw it, else as the runs did.
        tile: width and height of a slice in a sheet, pixels.
        across: slices in a row of a sheet.
        sheets: WebP pictures by modality: slices from left to right, then down.
        masks: `run_lengths` by who drew them and modality, [slice, row, column].
        brain: `run_lengths` of the head's bright inside, of `brain_shape` over the same box.
        brain_shape: slices, rows and columns of it.
    """

    study: str
    group: str
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    directions: str
    start: int
    tile: tuple[int, int]
    across: int
    sheets: Mapping[str, bytes]
    masks: Mapping[MaskKey, bytes]
    brain: bytes
    brain_shape: tuple[int, int, int]

    @property
    def size(self) -> int:
        """Bytes of pictures and masks."""
        parts = [*self.sheets.values(), *self.masks.values(), self.brain]
        return sum(map(len, parts))


def study_view(case: "Case") -> StudyView:
    """Encodes a case for the browser: cropped to the head, windowed, scaled to `TILE`.

    Raises:
        ValueError: the case has no image.
    """
    if not case.images:
        raise ValueError(f"a study to browse must have an image. Received {case.study} with none.")
    display = RadiologicalView(case.affine, case.spacing_mm)
    drawn: dict[MaskKey, np.ndarray] = {}
    for run, by_modality in case.predictions.items():
        drawn |= {("run", run, modality): mask for modality, mask in by_modality.items()}
    for (rater, modality), mask in sorted(case.references.items()):
        drawn["rater", rater, modality] = mask
    images = {modality: display(image) for modality, image in sorted(case.images.items())}
    marked = [display(np.logical_or.reduce(list(drawn.values())))] if drawn else []
    (bottom, top), (left, right) = head_limits([*images.values(), *marked])
    box = (slice(None), slice(max(top, 0), bottom + 1), slice(max(left, 0), right + 1))
    masks = {key: np.ascontiguousarray(display(mask)[box]) for key, mask in drawn.items()}
    shape = next(iter(images.values()))[box].shape
    tile = _tile(shape, display.spacing_mm, TILE)
    pictures = {m: _pictures(image[box], grey_window(m, case.images[m]), tile)
                for m, image in images.items()}  # fmt: skip
    brain = _brain(pictures.get("dwi", next(iter(pictures.values()))))
    seen = [mask for (kind, *_), mask in masks.items() if kind == "rater" and mask.any()]
    lesion = lesion_by_slice(seen or masks.values(), shape[0])
    across = int(np.ceil(np.sqrt(shape[0])))
    return StudyView(
        study=case.study,
        group=case.group,
        shape=shape,
        spacing_mm=display.spacing_mm,
        directions=display.directions,
        start=int(lesion.argmax()) if lesion.any() else shape[0] // 2,
        tile=tile,
        across=across,
        sheets={m: _encode(_sheet(slices, across), _QUALITY) for m, slices in pictures.items()},
        masks={key: run_lengths(mask) for key, mask in masks.items()},
        brain=run_lengths(brain),
        brain_shape=brain.shape,
    )


def fit_views(views: Sequence[StudyView], budget_bytes: int) -> list[StudyView]:
    """Views whose pictures and masks together keep to a budget.

    Pictures are compressed harder, then made smaller, as much as needed; where even that is too
    much, the last studies are left out.
    """
    views = list(views)
    pictures = sum(len(data) for view in views for data in view.sheets.values())
    rest = sum(view.size for view in views) - pictures
    for side, quality, share in _SMALLER:
        if sum(view.size for view in views) <= budget_bytes:
            return views
        # Each step takes time: those that would not be enough are passed over, but for the last.
        if rest + share * pictures <= budget_bytes or side == _SMALLER[-1][0]:
            # Pillow works outside of Python's lock.
            with ThreadPoolExecutor() as executor:
                shrink = functools.partial(_shrink, side=side, quality=quality)
                views = list(executor.map(shrink, views))
    while views and sum(view.size for view in views) > budget_bytes:
        views.pop()
    return views


def run_lengths(mask: np.ndarray) -> bytes:
    """Lengths of runs of 0, 1, 0, ... in C order (the first may be 0), each as LEB128.

    LEB128: seven bits a byte, low ones first; the high bit says that more bytes follow.
    """
    flat = np.ravel(mask).astype(bool)
    edges = np.flatnonzero(np.diff(flat, prepend=False))
    lengths = np.diff(edges, prepend=0, append=flat.size)
    parts = lengths[:, None] >> 7 * np.arange(5)
    more = (parts[:, 1:] > 0) << 7
    encoded = parts & 127
    encoded[:, :-1] |= more
    wanted = np.column_stack([np.ones(len(lengths), bool), more > 0])
    return encoded[wanted].astype(np.uint8).tobytes()


def _tile(shape: Sequence[int], spacing_mm: Sequence[float], side: int) -> tuple[int, int]:
    """Width and height in pixels of equal mm: as fine as the voxels, but not above `side`."""
    height_mm, width_mm = shape[1] * spacing_mm[1], shape[2] * spacing_mm[2]
    scale = min(side / max(height_mm, width_mm), 1 / min(spacing_mm[1:]))
    return max(round(width_mm * scale), 1), max(round(height_mm * scale), 1)


def _pictures(
    image: np.ndarray, window: tuple[float, float], tile: tuple[int, int]
) -> list[np.ndarray]:
    from PIL import Image

    low, high = window
    # fmax and fmin, unlike clip, turn NaN into a number: black.
    scaled = np.array(image, np.float32, order="C")
    scaled -= np.float32(low)
    scaled *= np.float32(255 / (high - low))
    grey = np.fmin(np.fmax(scaled, 0, out=scaled), 255, out=scaled).astype(np.uint8)
    resampling = Image.Resampling.HAMMING
    return [np.asarray(Image.fromarray(part).resize(tile, resampling)) for part in grey]


def _sheet(slices: Sequence[np.ndarray], across: int) -> np.ndarray:
    height, width = slices[0].shape
    sheet = np.zeros((-(-len(slices) // across) * height, across * width), np.uint8)
    for index, part in enumerate(slices):
        row, column = divmod(index, across)
        sheet[row * height : (row + 1) * height, column * width : (column + 1) * width] = part
    return sheet


def _encode(sheet: np.ndarray, quality: int) -> bytes:
    from PIL import Image

    buffer = BytesIO()
    Image.fromarray(sheet).save(buffer, "WEBP", quality=quality, method=2)
    return buffer.getvalue()


def _shrink(view: StudyView, side: int, quality: int) -> StudyView:
    from PIL import Image

    width, height = view.tile
    scale = min(side / max(width, height), 1)
    tile = max(round(width * scale), 1), max(round(height * scale), 1)
    sheets = {}
    for modality, data in view.sheets.items():
        sheet = np.asarray(Image.open(BytesIO(data)).convert("L"))
        parts = [
            sheet[row : row + height, column : column + width]
            for row in range(0, sheet.shape[0], height)
            for column in range(0, sheet.shape[1], width)
        ]
        small = _pictures(np.stack(parts[: view.shape[0]]), (0, 255), tile)
        sheets[modality] = _encode(_sheet(small, view.across), quality)
    return replace(view, tile=tile, sheets=sheets)


def _brain(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """The head's bright inside, roughly: the largest component above a third of the 90 % level.

    For orientation only: no skull is stripped.
    """
    height, width = pictures[0].shape
    step = max(-(-max(height, width) // _BRAIN_SIDE), 1)
    grey = ndimage.uniform_filter(np.stack(pictures), (1, step, step))[:, ::step, ::step]
    bright = grey > max(np.percentile(grey[grey > 12], 90) / 3 if (grey > 12).any() else 0, 12)
    bright = ndimage.binary_opening(bright, np.ones((1, 3, 3), bool))
    labels, count = ndimage.label(bright)
    if not count:
        return bright
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    inside = labels == sizes.argmax()
    return np.stack([ndimage.binary_fill_holes(part) for part in inside])
