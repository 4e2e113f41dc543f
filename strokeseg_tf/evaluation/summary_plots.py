"""The numbers of a summary -> the figures that show them."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from strokeseg_tf.evaluation.agreement import BANDS, LANDIS_KOCH_BANDS, comparison_of
from strokeseg_tf.evaluation.display import RUN_COLOURS
from strokeseg_tf.evaluation.panels import (
    BAND_COLOURS,
    Level,
    Panel,
    Plot,
    Series,
    run_colours,
)
from strokeseg_tf.evaluation.table import CONTROL, rater_title

Record = Mapping[str, Any]

AGREEMENT = "Agreement between raters and between modalities"


def build_plots(summary: Record) -> list[Plot]:
    """The figures for which a summary has numbers; any of its parts may be missing or empty."""
    statistics = summary.get("statistics") or {}
    probabilities = summary.get("probabilities") or []
    colours = run_colours([result["run"] for result in summary.get("results") or []])
    plots = [
        Plot(
            "bland_altman_dice",
            "Model against raters",
            "Bland-Altman (Fig. 4 of the paper): the model's Dice less the Dice between the "
            "raters, a point per study, with bias and limits of agreement (bias ± 1.96 sd; "
            "upright bars: 95 % confidence).",
            [_bland_altman_dice(record) for record in statistics.get("bland_altman") or []],
        ),
        Plot(
            "agreement",
            AGREEMENT,
            "Cohen's kappa per stroke study (box: quartiles; a point per study) over the bands of "
            "Landis and Koch, and the share of studies in each band (Fig. 2 of the paper).",
            _kappa(summary),
        ),
        Plot(
            "volumes",
            "Agreement of lesion volumes",
            "Bland-Altman of lesion volumes: first less second, a point per stroke study, with "
            "bias and limits of agreement (upright bars: 95 % confidence).",
            _bland_altman_volumes(summary),
        ),
        Plot(
            "lesion_size",
            "Lesion size",
            "Dice and sensitivity by the volume of the reference lesion: mean and standard "
            "deviation; the number of studies is in the table.",
            _sizes(statistics.get("sizes") or [], colours),
        ),
        Plot(
            "calibration",
            "Calibration",
            "Share of lesion voxels among those given a probability. On the diagonal, "
            "probabilities are frequencies. ECE: expected calibration error.",
            _panels(probabilities, partial(_calibration, colours=colours)),
        ),
        Plot(
            "threshold",
            "Dice against threshold",
            "Mean Dice by threshold on the probability. Diamond: the threshold that the run uses.",
            _panels(probabilities, partial(_threshold, colours=colours)),
        ),
    ]
    return [plot for plot in plots if plot.panels]


def who(record: Record) -> str:
    """ "ADC · R1"."""
    return f"{record['modality'].upper()} · {rater_title(record['rater'])}"


def _bland_altman_dice(record: Record) -> Panel:
    points = record["points"]
    pair = "/".join(rater_title(name) for name in record["pair"])
    title = f"{record['run']} · {who(record)}"
    return Panel(
        title,
        "Mean of both Dice",
        f"Dice: model − {pair}",
        [_points(points, title)],
        _limits(record),
        x_range=(-0.02, 1.02),
    )


def _points(points: Sequence[Record], name: str) -> Series:
    return Series(
        "points",
        name,
        [point["mean"] for point in points],
        [point["difference"] for point in points],
        RUN_COLOURS[-1],
        [point["study"] for point in points],
    )


def _limits(record: Record) -> list[Level]:
    levels = []
    for key, label in (("upper", "+1.96 sd"), ("bias", "bias"), ("lower", "−1.96 sd")):
        if record.get(key) is not None:
            low, high = record.get(f"{key}_ci") or (None, None)
            levels.append(Level(record[key], label, low, high))
    return levels


def _of_comparison(summary: Record, comparison: Record) -> list[Record]:
    """The rows of the stroke studies."""
    return [
        row
        for row in summary.get("agreement") or []
        if comparison_of(row) == comparison_of(comparison) and row["group"] != CONTROL
    ]


def _kappa(summary: Record) -> list[Panel]:
    comparisons = summary.get("agreement_summary") or []
    titles = [comparison["title"] for comparison in comparisons]
    boxes = []
    for at, comparison in enumerate(comparisons):
        rows = _of_comparison(summary, comparison)
        values, studies = [row["kappa"] for row in rows], [row["study"] for row in rows]
        boxes.append(Series("box", titles[at], [at] * len(rows), values, "#444444", studies))
    kappas = [value for box in boxes for value in box.y]
    if not kappas:
        return []
    bottom = min(-0.02, min(kappas) - 0.05)
    edges = (-1.0, 0.0, *(edge for edge, _ in LANDIS_KOCH_BANDS))
    bands = list(zip(edges, edges[1:], BANDS, strict=False))
    bars = [_share(comparisons, band, at) for at, band in enumerate(BANDS)]
    return [
        Panel("Kappa", "", "Cohen's kappa", boxes, bands=bands, ticks=titles,
              y_range=(bottom, 1.02)),
        Panel("Bands", "", "Studies (%)", bars, ticks=titles, y_range=(0, 100)),
    ]  # fmt: skip


def _share(comparisons: Sequence[Record], band: str, place: int) -> Series:
    shares = []
    for comparison in comparisons:
        count = sum(comparison["bands"].values()) or 1
        shares.append(100 * comparison["bands"].get(band, 0) / count)
    return Series("bar", band, list(range(len(comparisons))), shares, BAND_COLOURS[place])


def _bland_altman_volumes(summary: Record) -> list[Panel]:
    panels = []
    for comparison in summary.get("agreement_summary") or []:
        record = comparison.get("volume_bland_altman") or {}
        rows = _of_comparison(summary, comparison)
        if not rows or record.get("bias") is None:
            continue
        points = [
            {
                "study": row["study"],
                "mean": (row["first_volume_ml"] + row["second_volume_ml"]) / 2,
                "difference": row["first_volume_ml"] - row["second_volume_ml"],
            }
            for row in rows
        ]
        first, second = (rater_title(name) for name in comparison["pair"])
        panel = Panel(
            comparison["title"],
            "Mean volume (ml)",
            f"{first} − {second} (ml)",
            [_points(points, comparison["title"])],
            _limits(record),
        )
        panels.append(panel)
    return panels


def _panels(records: Sequence[Record], draw: Callable[[Sequence[Record], str], Panel]) -> list:
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(who(record), []).append(record)
    return [draw(group, title) for title, group in groups.items()]


def _sizes(records: Sequence[Record], colours: Mapping[str, str]) -> list[Panel]:
    bins = list(dict.fromkeys(record["bin"] for record in sorted(records, key=_low)))
    runs = list(dict.fromkeys(record["run"] for record in records))

    def panel(metric: str) -> Callable[[Sequence[Record], str], Panel]:
        def draw(group: Sequence[Record], title: str) -> Panel:
            series = []
            for at, run in enumerate(runs):
                own = [r for r in group if r["run"] == run and _mean(r, metric) is not None]
                shift = (at - (len(runs) - 1) / 2) * 0.6 / len(runs)
                series.append(
                    Series(
                        "points",
                        run,
                        [bins.index(record["bin"]) + shift for record in own],
                        [_mean(record, metric) for record in own],
                        colours[run],
                        [f"{record['bin']}, {record['studies']} studies" for record in own],
                        [record[metric].get("sd") or 0 for record in own],
                    )
                )
            kept = [one for one in series if len(one.x)]
            heading = f"{title} · {metric}"
            return Panel(heading, "Reference volume", metric.title(), kept, ticks=bins,
                         y_range=(-0.05, 1.05))  # fmt: skip

        return draw

    return _panels(records, panel("dice")) + _panels(records, panel("sensitivity"))


def _low(record: Record) -> float:
    return record.get("low_ml") or 0


def _mean(record: Record, metric: str) -> float | None:
    return (record.get(metric) or {}).get("mean")


def _calibration(group: Sequence[Record], title: str, colours: Mapping[str, str]) -> Panel:
    series = []
    for record in group:
        bins = [b for b in record.get("calibration") or [] if b.get("mean_probability") is not None]
        bins = [b for b in bins if b.get("lesion_share") is not None]
        error = record.get("expected_calibration_error")
        name = record["run"] + ("" if error is None else f" (ECE {error:.3f})")
        series.append(
            Series(
                "line",
                name,
                [b["mean_probability"] for b in bins],
                [b["lesion_share"] for b in bins],
                colours[record["run"]],
                [f"{b['voxels']} voxels" for b in bins],
            )
        )
    unit = (-0.02, 1.02)
    return Panel(title, "Mean probability", "Share of lesion voxels",
                 [one for one in series if len(one.x)], x_range=unit, y_range=unit,
                 diagonal=True)  # fmt: skip


def _threshold(group: Sequence[Record], title: str, colours: Mapping[str, str]) -> Panel:
    series = []
    for record in group:
        colour = colours[record["run"]]
        thresholds, dice = record["thresholds"], record["dice"]
        chosen = record.get("chosen")
        name = record["run"] + ("" if chosen is None else f" (uses {chosen:.2f})")
        series.append(Series("line", name, thresholds, dice, colour))
        if chosen is not None and thresholds:
            nearest = min(range(len(dice)), key=lambda at: abs(thresholds[at] - chosen))
            series.append(Series("chosen", name, [chosen], [dice[nearest]], colour, [name]))
    return Panel(title, "Threshold", "Mean Dice", series, x_range=(0, 1))
