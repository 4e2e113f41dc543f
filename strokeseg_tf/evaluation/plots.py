"""Figures of the statistics, as static pictures for papers."""

from collections.abc import Sequence
from math import sqrt
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from strokeseg_tf.evaluation.figures import Figure, new_canvas
from strokeseg_tf.evaluation.table import CONTROL, Row, rater_title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

_BLUE, _PALE_BLUE = "#0072B2", (0, 0.45, 0.7, 0.55)


def dice_figure(path: Path | str, rows: Sequence[Row]) -> Figure:
    """Draws Dice per run x modality x rater: a box, and a point per study.

    A point's area grows with the reference volume; controls are hollow. `rows`: at least one.
    """
    pools: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: (row["modality"], row["rater"])):
        name = f"{row['run']} · {row['modality'].upper()} · {rater_title(row['rater'])}"
        pools.setdefault(name, []).append(row)
    with new_canvas(path, (8.0, 1.5 + 0.42 * len(pools)), dark=False) as canvas:
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
