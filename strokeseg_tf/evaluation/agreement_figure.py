"""Fig. 2 of the paper: how the kappas of a cohort spread over the bands of Landis and Koch."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from strokeseg_tf.evaluation.agreement import (
    BANDS,
    LANDIS_KOCH_BANDS,
    AgreementRow,
    comparison_of,
)
from strokeseg_tf.evaluation.figures import Figure, jitter, new_canvas
from strokeseg_tf.evaluation.table import CONTROL, plus_minus

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

# Light to dark in grey too; the mean in Okabe and Ito's vermilion.
_BLUES = ("#f0f4f8", "#dbe7f2", "#b9d3e8", "#8bb6d9", "#5594c4", "#1f6aa5")
_INK, _MEAN, _EDGE = "#222222", "#D55E00", "#4c5a67"
_BLUE = _BLUES[-1]
_STRIP = 140.0  # where the points lie, on the axis of per cent
_AXES_HEIGHT = 1.5  # inches
_POINT = {
    "linestyle": "", "marker": "o", "markersize": 4.5, "markerfacecolor": _BLUE,
    "markeredgecolor": _INK, "markeredgewidth": 0.7,
}  # fmt: skip
_LINE = {"color": _MEAN, "linewidth": 1.4}


def agreement_figure(
    path: Path | str, rows: Sequence[AgreementRow], summary: Sequence[Mapping[str, Any]]
) -> Figure:
    """Draws a panel per comparison: the share of studies in each band, and a point per study.

    Args:
        path: PNG file to write, an SVG beside it.
        rows: of `agreement.study_agreement`.
        summary: of `agreement.summarise_agreement` over those rows; at least one entry.
    """
    edges = _edges(rows)
    legend = _legend(
        stroke_study=_POINT,
        control=_POINT | {"markerfacecolor": "white"},
        mean_of_stroke_studies=_LINE,
    )
    label = "Across: Cohen's kappa, in the bands of Landis and Koch"
    with _panels(path, summary, label, legend) as panels:
        for axes, entry in panels:
            pool = [row for row in rows if comparison_of(row) == comparison_of(entry)]
            _draw_bands(axes, entry, pool, edges)
            _draw_points(axes, entry, pool)
    means = "; ".join(
        f"{entry['title']}: {plus_minus(entry['kappa']['mean'], entry['kappa']['sd'])}"
        for entry in summary
    )
    return Figure(
        Path(path),
        "Agreement between raters and between modalities",
        "Cohen's kappa. Bars: share of stroke studies in each band of Landis and Koch, with their "
        "mean kappa. Points: studies, controls hollow. Line: mean over stroke studies.",
        f"Bars of the share of studies per band of kappa. Mean kappa: {means}.",
    )


def volume_figure(
    path: Path | str, rows: Sequence[AgreementRow], summary: Sequence[Mapping[str, Any]]
) -> Figure:
    """Draws a Bland-Altman panel of the lesion volumes per comparison; see `agreement_figure`."""
    legend = _legend(
        stroke_study=_POINT, bias=_LINE, limits_of_agreement=_LINE | {"linestyle": "--"}
    )
    label = "Across: mean of both volumes (ml). Up: first minus second (ml). Right: 95 % intervals"
    with _panels(path, summary, label, legend, below=0.25) as panels:
        for axes, entry in panels:
            pool = [row for row in rows if comparison_of(row) == comparison_of(entry)]
            _draw_volumes(axes, entry, [row for row in pool if row["group"] != CONTROL])
    biases = "; ".join(
        f"{entry['title']}: {_number(entry['volume_bland_altman']['bias'])} ml" for entry in summary
    )
    return Figure(
        Path(path),
        "Agreement of lesion volumes",
        "Bland-Altman plots of the lesion volumes of stroke studies, first minus second. Line: "
        "bias; dashes: limits of agreement (bias ± 1.96 sd); on the right their 95 % intervals.",
        f"Bland-Altman plots of lesion volumes. Bias: {biases}.",
    )


@contextmanager
def _panels(
    path: Path | str,
    summary: Sequence[Mapping[str, Any]],
    label: str,
    legend: Sequence["Line2D"],
    below: float = 0.5,
) -> Iterator[list[tuple["Axes", Mapping[str, Any]]]]:
    """An axes for each comparison, in two columns; the picture is saved at the end.

    `below`: inches between an axes and the next, for what is written there.
    """
    columns = min(2, len(summary))
    rows = ceil(len(summary) / columns)
    tall = _AXES_HEIGHT + 0.5 + below
    width, height = max(4.0 * columns, 5.0), tall * rows + 0.55
    with new_canvas(path, (width, height)) as canvas:
        # Panels of one size: nothing to be found out by drawing, which takes seconds.
        canvas.set_layout_engine("none")
        grid = list(canvas.subplots(rows, columns, squeeze=False).flat)
        for place, axes in enumerate(grid):
            row, column = divmod(place, columns)
            left, bottom = width * column / columns, height - tall * (row + 1)
            box = (left + 0.6, bottom + below, width / columns - 0.85, _AXES_HEIGHT)
            axes.set_position(np.divide(box, (width, height, width, height)))
            axes.set_visible(place < len(summary))
        for axes, entry in zip(grid, summary, strict=False):
            axes.spines[["top", "right"]].set_visible(False)
            axes.set_title(_title(entry), fontsize=9.5, loc="left", weight="bold", pad=17)
        look = {"loc": "lower center", "ncols": len(legend), "frameon": False}
        canvas.legend(handles=legend, title=label, **look)
        yield list(zip(grid, summary, strict=False))


def _title(entry: Mapping[str, Any], most: int = 46) -> str:
    title = entry["title"]
    return title if len(title) <= most else f"{title[: most - 1]}…"


def _studies(entry: Mapping[str, Any]) -> str:
    return f"{entry['studies']} stroke {'study' if entry['studies'] == 1 else 'studies'}"


def _say(axes: "Axes", text: str) -> None:
    """A line below an axes' title."""
    place = {"xycoords": "axes fraction", "xytext": (0, 5), "textcoords": "offset points"}
    axes.annotate(text, (0, 1), fontsize=8.5, color=_INK, **place)


def _legend(**looks: Mapping[str, Any]) -> list["Line2D"]:
    """Handles for a legend: what they look like by their label, spaces as `_`."""
    from matplotlib.lines import Line2D

    return [Line2D([], [], label=name.replace("_", " "), **look) for name, look in looks.items()]


def _edges(rows: Sequence[AgreementRow]) -> list[float]:
    """Edges of the bands from left to right; "poor" is drawn where there is such a kappa."""
    edges = [0.0, *(edge for edge, _ in LANDIS_KOCH_BANDS)]
    return [_place(-1), *edges] if any(row["kappa"] < 0 for row in rows) else edges


def _place(kappa: float) -> float:
    """Where a kappa is drawn: those below 0, which are rare, have the width of one band."""
    return kappa if kappa >= 0 else kappa / 5


def _draw_bands(axes: "Axes", entry: Mapping[str, Any], pool: Sequence, edges) -> None:
    names, colours = BANDS[-(len(edges) - 1) :], _BLUES[-(len(edges) - 1) :]
    look = {"fontsize": 7.5, "ha": "center", "va": "bottom", "color": _INK}
    for name, colour, left, right in zip(names, colours, edges, edges[1:], strict=False):
        inside = [r["kappa"] for r in pool if r["band"] == name and r["group"] != CONTROL]
        share = 100 * len(inside) / max(entry["studies"], 1)
        place, width = (left + right) / 2, (right - left) * 0.9
        axes.bar(place, share, width, color=colour, edgecolor=_EDGE, linewidth=0.6)
        text = f"{share:.0f} %\nκ {round(np.mean(inside), 2) + 0.0:.2f}" if inside else "0 %"
        axes.text(place, share + 2, text, **look)
    axes.set(xlim=(edges[0], edges[-1]), ylim=(0, _STRIP + 16), yticks=[0, 25, 50, 75, 100])
    axes.set_ylabel("studies (%)", y=50 / (_STRIP + 16))
    axes.spines["left"].set_bounds(0, 100)
    axes.set_xticks(edges, [f"{e:.1f}" if e >= 0 else "-1.0" for e in edges], fontsize=8)
    middles = [(a + b) / 2 for a, b in zip(edges, edges[1:], strict=False)]
    labels = [name.replace(" ", "\n") for name in names]
    axes.set_xticks(middles, labels, minor=True, fontsize=7.5 if len(names) < 6 else 6.5)
    axes.tick_params(axis="x", which="minor", length=0, pad=17)


def _draw_points(axes: "Axes", entry: Mapping[str, Any], pool: Sequence[AgreementRow]) -> None:
    mean = entry["kappa"]["mean"]
    if mean is not None:
        axes.plot([_place(mean)] * 2, [_STRIP - 13, _STRIP + 13], zorder=1, **_LINE)
    kappa = np.array([_place(row["kappa"]) for row in pool])
    control = np.array([row["group"] == CONTROL for row in pool])
    height = _STRIP + jitter(len(pool), 16)
    for chosen, face in ((~control, _BLUE), (control, "white")):
        look = _POINT | {"markerfacecolor": face, "clip_on": False, "zorder": 3}
        axes.plot(kappa[chosen], height[chosen], **look)
    _say(axes, f"{_studies(entry)}, κ {plus_minus(mean, entry['kappa']['sd'])}")


def _draw_volumes(axes: "Axes", entry: Mapping[str, Any], pool: Sequence[AgreementRow]) -> None:
    found = entry["volume_bland_altman"]
    first = np.array([row["first_volume_ml"] for row in pool])
    second = np.array([row["second_volume_ml"] for row in pool])
    axes.axhline(0, color="#999999", linewidth=0.6)
    if found["sd"] is not None:
        # Side by side: the intervals of a few studies overlap.
        for name, style, place in (
            ("lower", "--", 1.01),
            ("bias", "-", 1.025),
            ("upper", "--", 1.04),
        ):
            _draw_level(axes, found[name], found[f"{name}_ci"], style, place)
    axes.plot((first + second) / 2, first - second, **_POINT, zorder=3)
    _say(axes, f"{_studies(entry)}, {icc_text(entry['icc'])}")
    axes.margins(x=0.12)


def _draw_level(
    axes: "Axes", value: float, interval: Sequence[float], style: str, place: float
) -> None:
    """A line across, its value, and at `place`, right of the axes, its interval."""
    axes.axhline(value, linestyle=style, zorder=1, **_LINE)
    across = axes.get_yaxis_transform()
    look = {"fontsize": 7.5, "color": _INK, "va": "bottom", "ha": "right", "transform": across}
    # A point behind the number must not hide it.
    ground = {"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.4}
    axes.text(0.99, value, f"{value:+#.3g}", zorder=4, bbox=ground, **look)
    ends = np.abs(np.subtract(interval, value))[:, None]
    bar = axes.errorbar(place, value, ends, color=_MEAN, capsize=2, linewidth=1, transform=across)
    for part in (*bar[1], *bar[2]):
        part.set_clip_on(False)
    axes.update_datalim([(np.nan, end) for end in interval])


def icc_text(icc: Mapping[str, Any]) -> str:
    """ "ICC(2,1) 0.91 (0.80 to 0.96)", with what is defined of it."""
    if icc["value"] is None:
        return f"{icc['name']} undefined"
    text = f"{icc['name']} {icc['value']:.2f}"
    return text if icc["lower"] is None else f"{text} ({icc['lower']:.2f} to {icc['upper']:.2f})"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"
