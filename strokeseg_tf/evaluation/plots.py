"""Figures of the statistics, as static pictures for papers."""

from collections.abc import Mapping, Sequence
from math import sqrt
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np

from strokeseg_tf.evaluation.agreement_figure import agreement_figure, volume_figure
from strokeseg_tf.evaluation.figures import Figure, jitter, new_canvas
from strokeseg_tf.evaluation.panels import Panel, Plot, Series
from strokeseg_tf.evaluation.summary_plots import build_plots
from strokeseg_tf.evaluation.table import CONTROL, Row, rater_title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

_BLUE, _PALE_BLUE = "#0072B2", (0, 0.45, 0.7, 0.55)
_PANEL_INCHES = (3.3, 2.8)
_ACROSS = 4
_OF_AGREEMENT = {"agreement": agreement_figure, "volumes": volume_figure}


def statistics_figures(
    folder: Path | str, summary: Mapping[str, Any], rows: Sequence[Row]
) -> list[Figure]:
    """Draws Dice per study and whatever else the summary has numbers for, as PNG and SVG."""
    folder = Path(folder)
    drawn = [dice_figure(folder / "dice.png", rows)]
    for plot in build_plots(summary):
        path = folder / f"{plot.name}.png"
        if plot.name in _OF_AGREEMENT:
            draw = _OF_AGREEMENT[plot.name]
            drawn.append(draw(path, summary["agreement"], summary["agreement_summary"]))
        else:
            drawn.append(plot_figure(path, plot))
    return drawn


def plot_figure(path: Path | str, plot: Plot) -> Figure:
    """Draws the panels of a plot side by side."""
    across = min(len(plot.panels), _ACROSS)
    down = -(-len(plot.panels) // across)
    width, height = _PANEL_INCHES
    names = _legend_names(plot)
    size = (max(width * across, 4.5), height * down + (0.4 if names else 0))
    with new_canvas(path, size) as canvas:
        canvas.get_layout_engine().set(h_pad=0.08, w_pad=0.06)
        grid = canvas.subplots(down, across, squeeze=False).ravel()
        for axes, panel in zip(grid, plot.panels, strict=False):
            _draw_panel(axes, panel)
        for axes in grid[len(plot.panels) :]:
            axes.set_visible(False)
        if names:
            handles = {}
            for axes in grid:
                found, labels = axes.get_legend_handles_labels()
                handles |= dict(zip(labels, found, strict=True))
            shown = [handles[name] for name in names]
            columns = 3 if across > 1 else 2
            canvas.legend(shown, names, loc="outside lower center", ncols=columns, frameon=False)
    titles = "; ".join(panel.title for panel in plot.panels)
    return Figure(Path(path), plot.heading, plot.caption, f"{plot.caption} Panels: {titles}.")


def dice_figure(path: Path | str, rows: Sequence[Row]) -> Figure:
    """Draws Dice per run x modality x rater: a box, and a point per study.

    A point's area grows with the reference volume; controls are hollow. `rows`: at least one.
    """
    pools: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: (row["modality"], row["rater"])):
        name = f"{row['run']} · {row['modality'].upper()} · {rater_title(row['rater'])}"
        pools.setdefault(name, []).append(row)
    with new_canvas(path, (8.0, 1.5 + 0.42 * len(pools))) as canvas:
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


def _legend_names(plot: Plot) -> list[str]:
    """Names that the panels' titles and ticks do not say already."""
    said = {word for panel in plot.panels for word in (panel.title, *panel.ticks)}
    names = dict.fromkeys(one.name for panel in plot.panels for one in panel.series)
    return [name for name in names if name not in said]


def _draw_panel(axes: "Axes", panel: Panel) -> None:
    if panel.diagonal:
        axes.plot([0, 1], [0, 1], color="#999999", linewidth=0.8, linestyle="--")
    for one in panel.series:
        _draw_series(axes, one)
    for place, level in enumerate(panel.levels):
        across = axes.get_yaxis_transform()
        style = "-" if level.label == "bias" else "--"
        axes.axhline(level.value, color="#444444", linewidth=1, linestyle=style)
        look = {"transform": across, "ha": "right", "va": "bottom", "fontsize": 7}
        axes.text(0.93, level.value, level.text, **look)
        if level.low is not None and level.high is not None:
            x = 1 - 0.02 * (place + 1)
            axes.plot([x, x], [level.low, level.high], color="#888888", linewidth=2,
                      transform=across)  # fmt: skip
    if panel.ticks:
        names = [_in_lines(name.replace(" ml", "\u00a0ml")) for name in panel.ticks]
        axes.set_xticks(range(len(names)), names)
        axes.set_xlim(-0.6, len(panel.ticks) - 0.4)
    if panel.x_range:
        axes.set_xlim(panel.x_range)
    if panel.y_range:
        axes.set_ylim(panel.y_range)
    axes.set_xlabel(panel.x_title, fontsize=8)
    axes.set_ylabel(panel.y_title, fontsize=8)
    axes.set_title(panel.title, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def _in_lines(name: str) -> str:
    return "\n".join(fill(line, 9) for line in name.split("\n"))


def _draw_series(axes: "Axes", one: Series) -> None:
    x, y = np.asarray(one.x, float), np.array(one.y, float)
    if one.kind == "chosen":
        axes.scatter(x, y, s=46, marker="D", color=one.colour, edgecolors="black", linewidths=0.7,
                     zorder=4)  # fmt: skip
        return
    error = {"yerr": one.errors, "capsize": 2, "elinewidth": 0.8} if len(one.errors) else {}
    line = "-" if one.kind == "line" else ""
    axes.errorbar(x, y, color=one.colour, linestyle=line, linewidth=1.2, marker="o",
                  markersize=3.2, alpha=0.85, label=one.name, **error)  # fmt: skip


def _draw_strip(axes: "Axes", place: int, pool: Sequence[Row]) -> None:
    grey = {"color": "#777777"}
    dice, size = np.array([(row["dice"], _area(row["reference_volume_ml"])) for row in pool]).T
    axes.boxplot(
        dice[np.isfinite(dice)], positions=[place], orientation="horizontal", widths=0.6,
        medianprops={"color": "#D55E00", "linewidth": 1.6}, showfliers=False,
        boxprops=grey, whiskerprops=grey, capprops=grey,
    )  # fmt: skip
    control = np.array([row["group"] == CONTROL for row in pool])
    faces = np.where(control[:, None], (0, 0, 0, 0), _PALE_BLUE)
    look = {"facecolors": faces, "edgecolors": _BLUE, "linewidths": 0.9, "zorder": 3}
    axes.scatter(dice, place + jitter(len(pool), 0.44), s=size, **look)


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
