"""`report.html` of a search: one file that opens offline."""

from collections.abc import Sequence
from pathlib import Path

from strokeseg_tf.evaluation.plots import plot_figure
from strokeseg_tf.evaluation.report import markup
from strokeseg_tf.evaluation.report.charts import panel_chart
from strokeseg_tf.evaluation.report.page import document, framed_figure
from strokeseg_tf.evaluation.report.plotly import plotly_block
from strokeseg_tf.evaluation.report.sections import settings_section
from tfrecord_tools.atomic import write_text
from tuning import figures
from tuning.noise import noise_of, verdict
from tuning.plan import OBJECTIVES, Plan, read_plan
from tuning.results import (
    comparable,
    complete,
    default_scores,
    distinct,
    finalists,
    is_default,
    is_proposal,
    ranked,
    rows_of,
)

REPORT = "report.html"


def write_report(search: Path, plan: Plan, results: Sequence[dict], winner: dict) -> Path:
    """Write `report.html`, and its pictures as PNG and SVG in `figures/`.

    Args:
        search: Folder of the search.
        plan: The search.
        results: All results.
        winner: The best of them.
    """
    proposals = [r for r in results if is_proposal(r["trial"])]
    ended = comparable(results)
    tried = distinct([r for r in proposals if r["score"] is not None])
    noise = noise_of(default_scores(results), len(tried))
    content = read_plan(search)
    sentences = [
        _verdict(plan, results, noise),
        *_place_of_default(noise, ended),
        f"{len(complete(results))} trials complete, {_count(proposals, 'pruned')} pruned, "
        f"{_count(proposals, 'failed')} failed; the winner is {_name(winner['trial'])}.",
        f"The objective, {plan.objective}, is the {OBJECTIVES[plan.objective]}. A training counts "
        "by its best epoch, which flatters it: judge the winner on test studies.",
    ]
    parts = [markup.section("In short", markup.bullets(sentences))]
    charts = {}
    for plot in _plots(plan, results, ended, noise, winner):
        (search / "figures").mkdir(exist_ok=True)
        picture = plot_figure(search / "figures" / f"{plot.name}.png", plot)
        parts.append(markup.section(plot.heading, framed_figure(picture)))
        charts[plot.name] = {"caption": plot.caption, "panels": [_chart(p) for p in plot.panels]}
    parts.append(_table(plan, results))
    parts.append(settings_section(_settings(content)))
    parts += [markup.data_block("charts", charts), plotly_block()]
    page = document("Hyper-parameter search", content["phantom"], parts)
    write_text(search / REPORT, page)
    return search / REPORT


def _verdict(plan, results, noise) -> str:
    """On the finalists, whose repeats were not what they were chosen by, if there are any."""
    if final := finalists(plan, results):
        seeds, same = plan.repeats - 1, default_scores(results, again=True)
        fair = noise_of(default_scores(results), len(final), seeds, same)
        words = verdict(fair, final[0]["score"], "finalist")
        again = "once more" if seeds == 1 else f"{seeds} more times"
        return (
            f"{words} Finalists count by their repeats: they were trained {again}, by other seeds, "
            "and the default by the same."
        )
    best = ranked(plan, results)
    return verdict(noise, best[0]["score"] if best else None)


def _name(trial: str) -> str:
    return "the default" if is_default(trial) else f"trial {trial}"


def _place_of_default(noise, ended):
    if noise and ended:
        beaten = sum(result["score"] < noise.mean for result in ended)
        yield f"The default's mean is above {beaten} of {len(ended)} trials trained in full."


def _plots(plan, results, ended, noise, winner):
    yield figures.trials_plot(plan, results, noise)
    if ended:
        yield figures.coordinates_plot(plan, ended)
        if plot := figures.importance_plot(plan, ended):
            yield plot
    yield figures.curves_plot(plan, [r for r in results if r["trainings"]], winner)
    if ended and (plot := figures.heads_plot(plan, ended)):
        yield plot


def _chart(panel) -> dict:
    """A panel whose legend names each kind of trial once."""
    chart, seen = panel_chart(panel), set()
    for trace in chart["data"]:
        trace["legendgroup"] = trace["name"]
        trace["showlegend"] = trace["name"] not in seen
        seen.add(trace["name"])
    return chart


def _settings(content) -> dict:
    """What stands in `search.json`, the short of it together."""
    own = ("base", "default", "space", "versions")
    short = {k: v for k, v in content.items() if k not in (*own, "data", "phantom")}
    return {"search": short} | {name: content[name] for name in own}


def _count(results, status) -> int:
    return sum(result["status"] == status for result in results)


def _table(plan: Plan, results) -> str:
    rows = rows_of(plan, list(results))
    columns = [c for c in rows[0] if any(row[c] not in (None, "", False) for row in rows)]
    body = [markup.cells(_text(column, row[column]) for column in columns) for row in rows]
    titles = [column.replace("_", " ") for column in columns]
    return markup.section("All trials", markup.table("All trials", titles, body))


def _text(column, value) -> str:
    if isinstance(value, bool):
        return "yes" if value else ""
    if value is None:
        return ""
    decimals = 0 if column == "seconds" else 3
    return f"{value:.{decimals}f}" if isinstance(value, float) else str(value)
