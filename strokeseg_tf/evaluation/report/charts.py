"""The figures of the statistics as Plotly draws them: data and layout, ready for JSON.

Names and study ids are escaped, since Plotly reads a little markup in every text; `customdata`,
which is never shown, has them as they are, for the page to find the study of a point.
"""

from collections.abc import Mapping, Sequence
from html import escape
from math import isfinite
from typing import Any

from strokeseg_tf.evaluation.panels import (
    BAND_COLOURS,
    Level,
    Panel,
    Series,
    run_colours,
)
from strokeseg_tf.evaluation.summary_plots import build_plots
from strokeseg_tf.evaluation.table import Row, rater_title

Chart = dict[str, Any]

_GREY = "#888888"
_DICE = "Dice of every study: quartiles, median, and a point per study, controls included."


def build_charts(summary: Mapping[str, Any], rows: Sequence[Row]) -> dict[str, Chart]:
    """Charts by the name of the figure that they replace.

    Each has a `caption` and `panels`: `name`, `data` and `layout`.
    """
    charts = {
        plot.name: {
            "caption": plot.caption,
            "panels": [panel_chart(panel) for panel in plot.panels],
        }
        for plot in build_plots(summary)
    }
    return {"dice": {"caption": _DICE, "panels": _dice(rows)}, **charts}


def _plain(text: str) -> str:
    return escape(str(text), quote=False)


def _lines_of(text: str) -> str:
    return _plain(text).replace("\n", "<br>")


def _dice(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Boxes of Dice with a point per study: a panel per modality, a box per run and rater."""
    colours = run_colours([row["run"] for row in rows])
    modalities = dict.fromkeys(sorted(row["modality"] for row in rows))
    return [_dice_of(rows, modality, colours) for modality in modalities]


def _dice_of(rows: Sequence[Row], modality: str, colours: Mapping[str, str]) -> dict[str, Any]:
    pools: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row["modality"] == modality and isfinite(row["dice"]):
            pools.setdefault((row["rater"], row["run"]), []).append(row)
    data = []
    for (rater, run), pool in sorted(pools.items()):
        words = [
            f"{row['study']} ({row['group']}), {row['reference_volume_ml']:.1f} ml" for row in pool
        ]
        data.append(
            {
                "type": "box",
                "orientation": "h",
                "name": f"{_plain(run)} · {_plain(rater_title(rater))}",
                "x": [row["dice"] for row in pool],
                "text": [_plain(text) for text in words],
                "customdata": [row["study"] for row in pool],
                "boxpoints": "all",
                "pointpos": 0,
                "jitter": 0.5,
                "marker": {"color": colours[run], "size": 6, "opacity": 0.65},
                "line": {"width": 1.4},
                "fillcolor": "rgba(128,128,128,0.12)",
                "hovertemplate": "%{text}<br>Dice %{x:.3f}<extra></extra>",
            }
        )
    layout = {
        "showlegend": False,
        "height": 110 + 44 * len(pools),
        "xaxis": {"title": {"text": "Dice"}, "range": [-0.03, 1.03]},
        "yaxis": {"autorange": "reversed"},
    }
    return {"name": modality.upper(), "data": data, "layout": layout}


def panel_chart(panel: Panel) -> dict[str, Any]:
    """A panel as Plotly draws it: `name`, `data` and `layout`."""
    names = {one.name for one in panel.series}
    layout: dict[str, Any] = {
        "height": 420,
        "showlegend": len(names - {panel.title, *panel.ticks}) > 0,
        "legend": {"orientation": "h", "yanchor": "bottom", "y": 1.02, "x": 0},
        "xaxis": {"title": {"text": _plain(panel.x_title)}},
        "yaxis": {"title": {"text": _plain(panel.y_title)}},
        "shapes": [*_bands(panel), *_lines(panel)],
        "annotations": [*_band_names(panel), *_level_names(panel.levels)],
    }
    if panel.ticks:
        places = list(range(len(panel.ticks)))
        layout["xaxis"] |= {"tickvals": places, "ticktext": [_lines_of(t) for t in panel.ticks]}
        room = 0.1 if panel.bands else -0.4  # for the names of the bands
        layout["xaxis"] |= {
            "range": [-0.6, len(places) + room],
            "showgrid": False,
            "zeroline": False,
        }
    for axis, limits in (("xaxis", panel.x_range), ("yaxis", panel.y_range)):
        if limits:
            layout[axis]["range"] = list(limits)
    if any(one.kind == "bar" for one in panel.series):
        layout["barmode"] = "stack"
    data = [_trace(one) for one in panel.series]
    return {"name": panel.title, "data": data, "layout": layout}


def _trace(one: Series) -> dict[str, Any]:
    trace: dict[str, Any] = {"name": _plain(one.name), "x": list(one.x), "y": list(one.y)}
    trace["text"] = [_plain(text) for text in one.texts]
    trace["customdata"] = list(one.texts)
    words = "%{text}<br>" if one.texts else ""
    trace["hovertemplate"] = f"{words}%{{x:.3~f}}, %{{y:.3~f}}"
    if one.kind == "bar":
        return trace | {
            "type": "bar",
            "width": 0.65,
            "marker": {"color": one.colour},
            "hovertemplate": "%{y:.0f} %",
        }
    if one.kind == "box":
        return trace | {
            "type": "box",
            "boxpoints": "all",
            "pointpos": 0,
            "jitter": 0.5,
            "marker": {"color": "#0072b2", "size": 6, "opacity": 0.6},
            "line": {"width": 1.3, "color": _GREY},
            "fillcolor": "rgba(128,128,128,0.15)",
            "hovertemplate": f"{words}%{{y:.3f}}<extra></extra>",
        }
    trace |= {"type": "scatter", "mode": "lines+markers" if one.kind == "line" else "markers"}
    trace["marker"] = {"color": one.colour, "size": 7, "opacity": 0.85}
    if one.kind == "chosen":
        trace["showlegend"] = False
        trace["marker"] = {"color": one.colour, "size": 12, "symbol": "diamond",
                           "line": {"width": 1.5, "color": "#000000"}}  # fmt: skip
    if len(one.errors):
        trace["error_y"] = {"array": list(one.errors), "thickness": 1, "width": 3}
    return trace


def _bands(panel: Panel) -> list[dict[str, Any]]:
    return [
        _stripe(low, high, BAND_COLOURS[at % len(BAND_COLOURS)], 0.14)
        for at, (low, high, _) in enumerate(panel.bands)
    ]


def _stripe(low: float, high: float, colour: str, opacity: float) -> dict[str, Any]:
    return {
        "type": "rect", "xref": "paper", "x0": 0, "x1": 1, "y0": low, "y1": high,
        "fillcolor": colour, "opacity": opacity, "line": {"width": 0}, "layer": "below",
    }  # fmt: skip


def _lines(panel: Panel) -> list[dict[str, Any]]:
    shapes = []
    for place, level in enumerate(panel.levels):
        dash = "solid" if level.label == "bias" else "dash"
        across = {"xref": "paper", "x0": 0, "x1": 1, "y0": level.value, "y1": level.value}
        shapes.append({"type": "line", **across, "line": {"color": _GREY, "dash": dash}})
        if level.low is not None and level.high is not None:
            at = {"xref": "paper", "x0": (x := 1 - 0.008 * (place + 1)), "x1": x}
            line = {"color": _GREY, "width": 3}
            shapes.append({"type": "line", **at, "y0": level.low, "y1": level.high, "line": line})
    if panel.diagonal:
        line = {"color": _GREY, "dash": "dash", "width": 1}
        shapes.append({"type": "line", "x0": 0, "y0": 0, "x1": 1, "y1": 1, "line": line})
    return shapes


def _band_names(panel: Panel) -> list[dict[str, Any]]:
    bottom = panel.y_range[0] if panel.y_range else 0
    seen = [(max(low, bottom), high, name) for low, high, name in panel.bands]
    return [
        _words(name, (low + high) / 2, "middle", 1) for low, high, name in seen if high - low > 0.1
    ]


def _level_names(levels: Sequence[Level]) -> list[dict[str, Any]]:
    return [_words(level.text, level.value, "bottom", 0.96) for level in levels]


def _words(text: str, height: float, anchor: str, right: float) -> dict[str, Any]:
    return {
        "text": _plain(text), "xref": "paper", "x": right, "xanchor": "right", "y": height,
        "yanchor": anchor, "showarrow": False, "font": {"size": 11},
    }  # fmt: skip
