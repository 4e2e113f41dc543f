"""Figures of an evaluation as small PNG files. matplotlib is imported only when one is drawn."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from math import sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from nibabel import orientations

from strokeseg_tf.evaluation.table import CONTROL, Row, rater_title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

Volumes = Mapping[str, np.ndarray]  # images by modality; masks by who drew them, rater or run
Styles = dict[str, dict[str, Any]]

# Okabe and Ito's palette: told apart with any colour vision, and bright enough on grey tissue.
_RATER_COLOURS = ("#56B4E9", "#F0E442", "#FFFFFF")
_RUN_COLOURS = ("#D55E00", "#009E73", "#CC79A7", "#E69F00", "#0072B2")
_RATER_DASHES = ("--", ":", "-.")
_INK = {"text.color": "white", "axes.facecolor": "black", "figure.facecolor": "black"}
_BLUE, _PALE_BLUE = "#0072B2", (0, 0.45, 0.7, 0.55)
_MIN_SLICES, _MAX_SLICES = 3, 6
_WIDTH = 1.73  # of one slice, inches


@dataclass(frozen=True)
class Figure:
    """A picture for the report: file, section, what it shows, and that for who cannot see it."""

    path: Path
    heading: str
    caption: str
    alt: str


def overlay_figure(
    path: Path | str,
    study: str,
    images: Volumes,
    contours: Mapping[str, Volumes],
    *,
    raters: Sequence[str] = ("r1", "r2"),
    spacing_mm: Sequence[float] = (1.0, 1.0, 1.0),
    affine: np.ndarray | None = None,
) -> Figure:
    """Draws the slices with most lesion, a row per modality, anterior up, right on the left.

    Args:
        path: PNG file to write.
        study: study id, for the title.
        images: at least one float array [slice, x, y] by modality; ADC in 1e-3 mm2/s is shown
            from 0 to 3, anything else between percentiles of the head.
        contours: bool arrays [slice, x, y] by modality, then by who drew them (a rater or a run).
        raters: the names among them that are raters: dashed; runs are solid lines.
        spacing_mm: voxel size in mm in array order: slice, x, y.
        affine: 4 x 4, voxel (x, y, slice) to RAS mm; None takes x to run to the patient's
            left and y to the back.
    """
    styles = _styles({name: None for drawn in contours.values() for name in drawn}, raters)
    view = _View(np.diag([-1.0, -1, 1, 1]) if affine is None else np.asarray(affine), spacing_mm)
    slices = _busiest_slices(contours, next(iter(images.values())).shape[0])
    volumes = [*images.values(), *(mask for drawn in contours.values() for mask in drawn.values())]
    rows, columns = _head_limits([view(volume) for volume in volumes])
    height = np.clip(_WIDTH * view.aspect * np.ptp(rows) / np.ptp(columns), 0.8, 3.0)
    size = max(_WIDTH * len(slices), 5.4), height * len(images) + 0.9
    with _canvas(path, size, dark=True) as canvas:
        look = {"xlim": columns, "ylim": rows, "autoscale_on": False}
        grid = canvas.subplots(len(images), len(slices), squeeze=False, subplot_kw=look)
        for axes, (modality, image) in zip(grid, images.items(), strict=True):
            _draw_row(axes, view, modality, image, contours.get(modality, {}), slices, styles)
        canvas.suptitle(study, fontsize=11)
        _overlay_legend(canvas, contours, styles)
    shown = ", ".join(str(index + 1) for index in slices)
    drawn_by = ", ".join(style["label"] for style in styles.values()) or "nobody"
    modalities = " and ".join(modality.upper() for modality in images)
    alt = f"Study {study}, slices {shown} of {modalities}, with lesion contours of {drawn_by}."
    return Figure(Path(path), "Contours", f"{study}: slices {shown}", alt)


def dice_figure(path: Path | str, rows: Sequence[Row]) -> Figure:
    """Draws Dice per run x modality x rater: a box, and a point per study.

    A point's area grows with the reference volume; controls are hollow. `rows`: at least one.
    """
    pools: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: (row["modality"], row["rater"])):
        name = f"{row['run']} · {row['modality'].upper()} · {rater_title(row['rater'])}"
        pools.setdefault(name, []).append(row)
    with _canvas(path, (8.0, 1.5 + 0.42 * len(pools)), dark=False) as canvas:
        axes = canvas.subplots()
        for place, pool in enumerate(pools.values()):
            _draw_strip(axes, place, pool)
        axes.set_yticks(range(len(pools)), list(pools))
        axes.set(xlim=(-0.03, 1.03), ylim=(len(pools) - 0.4, -0.6), xlabel="Dice")
        axes.grid(axis="x", color="#dddddd", linewidth=0.6)
        axes.spines[["top", "right", "left"]].set_visible(False)
        _volume_legend(canvas)
    return Figure(
        Path(path),
        "Dice",
        "Dice of every study. Box: quartiles, median; area: reference volume; hollow: control.",
        f"Box plots of Dice with a point per study, for {', '.join(pools)}.",
    )


class _View:
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
        self.aspect = row_mm / column_mm
        self.column_ends = "AP" if self.slice_axis == 0 else "RL"

    def __call__(self, array: np.ndarray) -> np.ndarray:
        turned = orientations.apply_orientation(np.moveaxis(array, 0, 2), self.transform)
        return np.moveaxis(turned, self.slice_axis, 0).swapaxes(1, 2)


@contextmanager
def _canvas(path: Path | str, size_inches: tuple[float, float], dark: bool) -> Iterator["Canvas"]:
    """A figure that is saved as a PNG at the end; the dark ones, full of noise, in few colours."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas
    from PIL import Image

    # A dollar sign in a study id is no mathematics.
    look = {"font.size": 9, "text.parse_math": False, **(_INK if dark else {})}
    with matplotlib.rc_context(look):
        canvas = Canvas(size_inches, dpi=115, layout="constrained")
        yield canvas
        buffer = BytesIO()
        FigureCanvasAgg(canvas).print_png(buffer)
    image = Image.open(buffer).convert("RGB")
    if dark:
        palette = Image.new("P", (1, 1))
        palette.putpalette(_palette())
        image = image.quantize(palette=palette, dither=0)
    image.save(path, optimize=True)


def _palette() -> list[int]:
    """64 greys, and the contours' colours blended with dark, mid and light grey for soft edges.

    An adaptive palette would spend itself on the greys and turn the contours brown.
    """
    greys = np.repeat(np.linspace(0, 255, 64), 3)
    hues = np.array([list(bytes.fromhex(hue[1:])) for hue in _RUN_COLOURS + _RATER_COLOURS])
    shares = np.array([1, 0.75, 0.5, 0.25])[:, None, None]
    blends = [shares * hues + (1 - shares) * level for level in (0, 110, 255)]
    return np.concatenate([greys, np.ravel(blends)]).astype(int).tolist()


def _head_limits(pictures: Sequence[np.ndarray]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Limits of rows and columns around a head, found by brightness, and around every mask."""
    shadows = [(p > 0.1 * np.nanpercentile(p.astype("f4"), 99.5)).any(axis=0) for p in pictures]
    rows, columns = np.nonzero(np.logical_or.reduce(shadows))
    if not rows.size:
        rows, columns = (np.array([0, size - 1]) for size in pictures[0].shape[1:])
    return (rows.max() + 4, rows.min() - 4), (columns.min() - 4, columns.max() + 4)


def _busiest_slices(contours: Mapping[str, Volumes], n_slices: int) -> list[int]:
    """Three to six slices with most lesion, else around the middle.

    Each mask shares out 1 among its slices: a large false positive must not hide a small lesion.
    """
    lesion = np.zeros(n_slices)
    for drawn in contours.values():
        for mask in drawn.values():
            lesion += mask.sum(axis=(1, 2)) / max(np.count_nonzero(mask), 1)
    centre = int(lesion.argmax()) if lesion.any() else n_slices // 2
    order = np.lexsort((np.abs(np.arange(n_slices) - centre), -lesion))
    count = np.clip(np.count_nonzero(lesion), _MIN_SLICES, _MAX_SLICES)
    return sorted(int(index) for index in order[:count])


def _styles(names: Collection[str], raters: Sequence[str]) -> Styles:
    styles: Styles = {}
    for place, name in enumerate(name for name in names if name not in raters):
        colour = _RUN_COLOURS[place % len(_RUN_COLOURS)]
        styles[name] = {"color": colour, "linestyle": "-", "label": name}
    # Last, so on top: dashes leave the solid lines below to be seen.
    for place, name in enumerate(sorted(set(names) & set(raters))):
        look = place % len(_RATER_COLOURS)
        style = {"color": _RATER_COLOURS[look], "linestyle": _RATER_DASHES[look]}
        styles[name] = {**style, "label": rater_title(name)}
    return styles


def _draw_row(
    row: Sequence["Axes"],
    view: _View,
    modality: str,
    image: np.ndarray,
    drawn: Volumes,
    slices: Sequence[int],
    styles: Styles,
) -> None:
    low, high = _window(modality, image)
    shown, masks = view(image), {name: view(mask) for name, mask in drawn.items()}
    for axes, index in zip(row, slices, strict=True):
        axes.imshow(shown[index], cmap="gray", vmin=low, vmax=high, aspect=view.aspect)
        for name, style in styles.items():
            if name in masks:
                _outline(axes, masks[name][index], style)
        axes.set_xticks([])
        axes.set_yticks([])
        look = {"transform": axes.transAxes, "va": "center", "fontsize": 7}
        axes.text(0.02, 0.5, view.column_ends[0], ha="left", **look)
        axes.text(0.98, 0.5, view.column_ends[1], ha="right", **look)
        axes.set_title(f"{modality.upper()} slice {index + 1}", fontsize=8)


def _outline(axes: "Axes", mask: np.ndarray, style: Mapping[str, Any]) -> None:
    if mask.any():
        edge = np.pad(mask, 1)  # closes the contour of a lesion at the picture's edge
        rows, columns = (np.arange(-1, size + 1) for size in mask.shape)
        look = {"colors": style["color"], "linestyles": style["linestyle"], "linewidths": 1.1}
        axes.contour(columns, rows, edge, [0.5], **look)


def _window(modality: str, image: np.ndarray) -> tuple[float, float]:
    """Grey range: ADC 0 to 3 where its median says 1e-3 mm2/s, else the head's 1-99.5 %."""
    positive = image[np.isfinite(image) & (image > 0)]
    if not positive.size:
        return 0.0, 1.0
    if modality == "adc" and 0.1 < np.median(positive) < 10:
        return 0.0, 3.0
    head = positive[positive > 0.1 * np.percentile(positive, 99.5)]
    low, high = np.percentile(head, (1, 99.5))
    return (low, high) if high > low else (0.0, high)


def _overlay_legend(canvas: "Canvas", contours: Mapping[str, Volumes], styles: Styles) -> None:
    """Says of each contour whether it is empty: nothing drawn is not the same as not asked."""
    from matplotlib.lines import Line2D

    handles = []
    for name, style in styles.items():
        drawn = {m.upper(): masks[name] for m, masks in contours.items() if name in masks}
        empty = " and ".join(modality for modality, mask in drawn.items() if not mask.any())
        label = style["label"] + (f" (empty on {empty})" if empty else "")
        handles.append(Line2D([], [], **{**style, "label": label}))
    if handles:
        canvas.legend(handles=handles, loc="outside lower center", ncols=5, frameon=False)


def _draw_strip(axes: "Axes", place: int, pool: Sequence[Row]) -> None:
    grey = {"color": "#777777"}
    dice, size = np.array([(row["dice"], _area(row["reference_volume_ml"])) for row in pool]).T
    axes.boxplot(
        dice[np.isfinite(dice)], positions=[place], orientation="horizontal", widths=0.6,
        medianprops={"color": "#D55E00", "linewidth": 1.6}, showfliers=False,
        boxprops=grey, whiskerprops=grey, capprops=grey,
    )  # fmt: skip
    # Golden-ratio steps spread the points evenly and the same way every time.
    jitter = ((np.arange(len(pool)) * (sqrt(5) - 1) / 2) % 1 - 0.5) * 0.44
    control = np.array([row["group"] == CONTROL for row in pool])
    faces = np.where(control[:, None], (0, 0, 0, 0), _PALE_BLUE)
    look = {"facecolors": faces, "edgecolors": _BLUE, "linewidths": 0.9, "zorder": 3}
    axes.scatter(dice, place + jitter, s=size, **look)


def _area(volume_ml: float) -> float:
    """In square points, by the root of the volume: 0.3 ml and 200 ml must fit one picture."""
    return 8 + 9 * sqrt(volume_ml)


def _volume_legend(canvas: "Canvas") -> None:
    from matplotlib.lines import Line2D

    def point(volume: float, face: object, label: str) -> Line2D:
        look = {"markerfacecolor": face, "markeredgecolor": _BLUE, "label": label}
        return Line2D([], [], linestyle="", marker="o", markersize=sqrt(_area(volume)), **look)

    handles = [point(volume, _PALE_BLUE, f"{volume} ml") for volume in (1, 10, 100)]
    handles += [point(0, "none", "control")]
    canvas.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)
