"""Contours of raters and runs on the slices with most lesion, as a static picture."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from strokeseg_tf.evaluation.display import (
    RATER_COLOURS,
    RUN_COLOURS,
    RadiologicalView,
    Volumes,
    busiest_slices,
    grey_window,
    head_limits,
)
from strokeseg_tf.evaluation.figures import Figure, new_canvas
from strokeseg_tf.evaluation.table import rater_title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

Styles = dict[str, dict[str, Any]]

_RATER_DASHES = ("--", ":", "-.")
_WIDTH = 1.73  # of one slice, inches


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
            from 0 to 2, anything else between percentiles of the head.
        contours: bool arrays [slice, x, y] by modality, then by who drew them (a rater or a run).
        raters: the names among them that are raters: dashed; runs are solid lines.
        spacing_mm: voxel size in mm in array order: slice, x, y.
        affine: 4 x 4, voxel (x, y, slice) to RAS mm; None takes x to run to the patient's
            left and y to the back.
    """
    styles = _styles({name: None for drawn in contours.values() for name in drawn}, raters)
    view = RadiologicalView(
        np.diag([-1.0, -1, 1, 1]) if affine is None else np.asarray(affine), spacing_mm
    )
    slices = busiest_slices(contours, next(iter(images.values())).shape[0])
    volumes = [*images.values(), *(mask for drawn in contours.values() for mask in drawn.values())]
    rows, columns = head_limits([view(volume) for volume in volumes])
    height = np.clip(_WIDTH * view.aspect * np.ptp(rows) / np.ptp(columns), 0.8, 3.0)
    size = max(_WIDTH * len(slices), 5.4), height * len(images) + 0.9
    with new_canvas(path, size, dark=True) as canvas:
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


def _styles(names: Collection[str], raters: Sequence[str]) -> Styles:
    styles: Styles = {}
    for place, name in enumerate(name for name in names if name not in raters):
        colour = RUN_COLOURS[place % len(RUN_COLOURS)]
        styles[name] = {"color": colour, "linestyle": "-", "label": name}
    # Last, so on top: dashes leave the solid lines below to be seen.
    for place, name in enumerate(sorted(set(names) & set(raters))):
        look = place % len(RATER_COLOURS)
        style = {"color": RATER_COLOURS[look], "linestyle": _RATER_DASHES[look]}
        styles[name] = {**style, "label": rater_title(name)}
    return styles


def _draw_row(
    row: Sequence["Axes"],
    view: RadiologicalView,
    modality: str,
    image: np.ndarray,
    drawn: Volumes,
    slices: Sequence[int],
    styles: Styles,
) -> None:
    low, high = grey_window(modality, image)
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
