"""A figure of an evaluation: a PNG to look at and an SVG for papers, with words for both.

matplotlib is imported only when one is drawn.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from math import sqrt
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from strokeseg_tf.evaluation.display import RATER_COLOURS, RUN_COLOURS

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

_INK = {"text.color": "white", "axes.facecolor": "black", "figure.facecolor": "black"}


@dataclass(frozen=True)
class Figure:
    """A picture for the report: file, section, what it shows, and that for who cannot see it."""

    path: Path
    heading: str
    caption: str
    alt: str


@contextmanager
def new_canvas(
    path: Path | str, size_inches: tuple[float, float], dark: bool = False
) -> Iterator["Canvas"]:
    """A figure that is saved at the end: `path` as PNG, and beside it as SVG.

    The dark ones, which are full of noise, have few colours.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure as Canvas
    from PIL import Image

    # A dollar sign in a study id is no mathematics. Letters stay letters, for a journal to set.
    look = {"font.size": 9, "text.parse_math": False, "svg.fonttype": "none"}
    look |= {"svg.hashsalt": "strokeseg", **(_INK if dark else {})}
    with matplotlib.rc_context(look):
        canvas = Canvas(size_inches, dpi=115, layout="constrained")
        yield canvas
        buffer = BytesIO()
        FigureCanvasAgg(canvas).print_png(buffer)
        canvas.set_layout_engine("none")  # laid out by now, which takes the longest
        FigureCanvasSVG(canvas).print_svg(Path(path).with_suffix(".svg"), metadata={"Date": None})
    image = Image.open(buffer).convert("RGB")
    if dark:
        palette = Image.new("P", (1, 1))
        palette.putpalette(_palette())
        image = image.quantize(palette=palette, dither=0)
    image.save(path, optimize=True)


def jitter(count: int, width: float) -> np.ndarray:
    """Places of points across a strip: golden-ratio steps, even and the same every time."""
    return ((np.arange(count) * (sqrt(5) - 1) / 2) % 1 - 0.5) * width


def _palette() -> list[int]:
    """64 greys, and the contours' colours blended with dark, mid and light grey for soft edges.

    An adaptive palette would spend itself on the greys and turn the contours brown.
    """
    greys = np.repeat(np.linspace(0, 255, 64), 3)
    hues = np.array([list(bytes.fromhex(hue[1:])) for hue in RUN_COLOURS + RATER_COLOURS])
    shares = np.array([1, 0.75, 0.5, 0.25])[:, None, None]
    blends = [shares * hues + (1 - shares) * level for level in (0, 110, 255)]
    return np.concatenate([greys, np.ravel(blends)]).astype(int).tolist()
