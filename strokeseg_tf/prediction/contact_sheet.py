"""All slices of a study on one picture, with the contours of what was marked."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from strokeseg_tf.evaluation.display import RadiologicalView, grey_window, head_limits
from strokeseg_tf.prediction.study import Prediction
from tfrecord_tools.grid import resample
from tfrecord_tools.study import Study

#: Width of a sheet and of the widest slice, pixels; slices beside each other for each row.
WIDTH, WIDEST = 1600, 240
ASPECT = 2.4

#: Greys of the words, and the level that the palette shows as the contours' colour: one byte a
#: pixel is written in a third of the time.
INK, FAINT, CONTOUR, COLOUR = 235, 150, 255, (255, 140, 0)

FOOTER = (
    "Research only. Not a medical device. Radiological view: the patient's right is on the left."
)


def write_contact_sheet(
    path: Path, study: Study, predictions: Mapping[str, Prediction], *, title: str
) -> None:
    """Write all slices of each predicted modality, from the neck up, with contours.

    Args:
        path: PNG file to write.
        study: What was predicted.
        predictions: By modality.
        title: Stands above.
    """
    view = RadiologicalView(study.grid.canonical.affine, study.grid.spacing_mm)
    images = {m: view(study.in_standard_unit(m)) for m in predictions}
    masks = {m: view(_on_slices(study, p)) for m, p in predictions.items()}
    (bottom, top), (left, right) = head_limits([*images.values(), *masks.values()])
    box = (slice(None), slice(max(top, 0), bottom + 1), slice(max(left, 0), right + 1))
    parts = []
    for modality, prediction in predictions.items():
        across, tile = _arrange(images[modality][box].shape, view.aspect)
        window = grey_window(modality, study.in_standard_unit(modality))
        tiles = [
            _tile(image, mask, window, tile, f"{number}")
            for number, (image, mask) in enumerate(
                zip(images[modality][box], masks[modality][box], strict=True), 1
            )
        ]
        parts += [_line(_summary(modality, prediction), 20, INK), _grid(tiles, across)]
    parts = [_line(title, 26, INK), *parts, _line(FOOTER, 15, FAINT)]
    sheet = _stacked(parts)
    sheet.putpalette([level for level in range(255) for _ in range(3)] + [*COLOUR])
    sheet.save(path, compress_level=4)


def _on_slices(study: Study, prediction: Prediction) -> np.ndarray:
    mask = prediction.mask
    if prediction.grid is not study.grid:
        mask = resample(mask, prediction.grid, study.grid, order=0) > 0.5
    return study.grid.to_slices(mask)


def _summary(modality: str, prediction: Prediction) -> str:
    lesions = prediction.lesions
    if not lesions:
        return f"{modality.upper()}: nothing marked"
    return (
        f"{modality.upper()}: {prediction.volume_ml:.1f} ml in {lesions} "
        f"lesion{'s' * (lesions > 1)}"
    )


def _arrange(shape: Sequence[int], aspect: float) -> tuple[int, tuple[int, int]]:
    """Slices beside each other, and width and height of one in pixels."""
    slices, rows, columns = shape
    across = min(slices, max(round(np.sqrt(slices * ASPECT)), 1))
    width = min(WIDTH // across, WIDEST)
    return across, (width, max(round(width * rows * aspect / columns), 1))


def _tile(image, mask, window, size, number) -> Image.Image:
    """A slice as it is shown, `size` pixels wide and high."""
    low, high = window
    grey = np.clip((image - low) * (CONTOUR / (high - low)), 0, CONTOUR - 1).astype(np.uint8)
    tile = np.array(Image.fromarray(grey).resize(size, Image.Resampling.BICUBIC))
    tile = np.minimum(tile, CONTOUR - 1)
    if mask.any():
        # Smooth between voxels, where an outline on their edges would be a staircase.
        lesion = Image.fromarray(mask.astype(np.uint8) * 255)
        inside = np.asarray(lesion.resize(size, Image.Resampling.BILINEAR)) > 127
        tile[ndimage.binary_dilation(inside) & ~inside] = CONTOUR
    picture = Image.fromarray(tile)
    ImageDraw.Draw(picture).text((4, 2), number, fill=FAINT, font=_font(13))
    return picture


def _grid(tiles: Sequence[Image.Image], across: int) -> Image.Image:
    width, height = tiles[0].size
    sheet = Image.new("L", (across * width, -(-len(tiles) // across) * height))
    for index, tile in enumerate(tiles):
        row, column = divmod(index, across)
        sheet.paste(tile, (column * width, row * height))
    return sheet


@functools.lru_cache
def _font(size: int):
    return ImageFont.load_default(size)


def _line(text: str, size: int, level: int) -> Image.Image:
    font = _font(size)
    width = round(font.getlength(text)) + 16
    line = Image.new("L", (width, round(size * 1.7)))
    ImageDraw.Draw(line).text((8, size * 0.25), text, fill=level, font=font)
    return line


def _stacked(parts: Sequence[Image.Image]) -> Image.Image:
    width = max(part.width for part in parts)
    sheet = Image.new("L", (width, sum(part.height for part in parts)))
    top = 0
    for part in parts:
        sheet.paste(part, (0, top))
        top += part.height
    return sheet
