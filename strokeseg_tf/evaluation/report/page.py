"""The page: what stands in it, in which order, and what it may load (nothing)."""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from strokeseg_tf.evaluation.browser import StudyView
from strokeseg_tf.evaluation.figures import Figure
from strokeseg_tf.evaluation.report import markup, sections, statistics
from strokeseg_tf.evaluation.report.charts import build_charts
from strokeseg_tf.evaluation.report.plotly import plotly_block
from strokeseg_tf.evaluation.report.studies import browser_section
from strokeseg_tf.evaluation.summary_plots import AGREEMENT
from strokeseg_tf.evaluation.table import Row

#: What a report is kept under, so that it can be mailed and opened anywhere.
BUDGET_BYTES = 14_500_000

_NOT_A_DEVICE = (
    "This is research software, not a medical device: nothing here may guide the diagnosis or "
    "treatment of a patient."
)
_PHANTOM = (
    "Phantom data: every image and mask here is synthetic. The numbers show that the chain works; "
    "they say nothing about accuracy on patients."
)
_SCRIPTS = ("report.js", "charts.js", "surface.js", "browser.js")


def write_report(
    out: Path | str,
    *,
    summary: Mapping[str, Any],
    rows: Sequence[Row],
    figures: Sequence[Figure],
    settings: Mapping[str, Any],
    views: Sequence[StudyView] = (),
    budget_bytes: int = BUDGET_BYTES,
) -> Path:
    """Writes `report.html` into the folder `out` and returns its path.

    Args:
        out: an existing folder.
        summary: as `evaluate_cases` returns it. Of the statistics, the agreement and the
            probabilities any part may be missing: its section is left out then.
        rows: every row of the score table.
        figures: PNG files to embed, under the heading each of them names. One whose file's name
            is a key of `charts.build_charts` becomes interactive where scripts run.
        settings: printed at the end, nested values as JSON.
        views: `browser.study_view` of the studies to browse.
        budget_bytes: what the file may take; the browser's pictures give way to the rest.
    """
    charts = build_charts(summary, rows)
    shown = {figure.path.stem for figure in figures}
    charts = {name: chart for name, chart in charts.items() if name in shown}
    before = [
        sections.summary_section(summary),
        sections.table1_section(summary),
        sections.controls_section(summary),
    ]
    pictures = _by_heading(figures)
    contours = [heading for heading in pictures if heading.startswith("Contours")]
    tables = {
        AGREEMENT: statistics.agreement_table(summary),
        "Lesion size": statistics.sizes_table(summary),
    }
    headings = dict.fromkeys([*pictures, *(name for name, table in tables.items() if table)])
    after = [
        *(
            markup.section(heading, pictures.get(heading, "") + tables.get(heading, ""))
            for heading in headings
            if heading not in contours
        ),
        statistics.statistics_section(summary),
        sections.scores_section(rows),
        *(markup.section(heading, pictures[heading]) for heading in contours),
        sections.settings_section(settings),
        markup.data_block("charts", charts) if charts else "",
        plotly_block() if charts or views else "",
    ]
    used = len(_page(summary, [*before, *after]).encode())
    browser = browser_section(views, rows, budget_bytes - used)
    path = Path(out) / "report.html"
    page = _page(summary, [part for part in (*before, browser, *after) if part])
    path.write_text(page, encoding="utf-8")
    return path


def _by_heading(figures: Sequence[Figure]) -> dict[str, str]:
    parts: dict[str, str] = {}
    for figure in figures:
        parts[figure.heading] = parts.get(figure.heading, "") + framed_figure(figure)
    return parts


def framed_figure(figure: Figure) -> str:
    """A picture with its caption; the page's script puts the chart of its name in its place."""
    data = base64.b64encode(figure.path.read_bytes()).decode("ascii")
    picture = f'<img src="data:image/png;base64,{data}" alt="{escape(figure.alt)}">'
    caption = f"<figcaption>{escape(figure.caption)}</figcaption>"
    framed = markup.scroller(figure.caption, picture, "picture")
    return f'<figure data-chart="{escape(figure.path.stem)}">{framed}{caption}</figure>'


def _read(name: str) -> str:
    return (files(__package__) / name).read_text(encoding="utf-8")


def _page(summary: Mapping[str, Any], parts: Sequence[str]) -> str:
    return document("Stroke segmentation: evaluation", summary["phantom"], parts)


def document(title: str, phantom: bool, parts: Sequence[str]) -> str:
    """A whole page of these sections and data blocks, which loads nothing from elsewhere.

    Args:
        title: its heading, plain text.
        phantom: whether to say that the data is synthetic.
        parts: HTML, as `markup` makes it.
    """
    title = escape(title + (" on phantom data" if phantom else ""))
    banner = f'<p class="phantom">{_PHANTOM}</p>' if phantom else ""
    script = "\n".join(_read(name) for name in _SCRIPTS)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data: blob:;
 style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>{title}</title>
<style>{_read("report.css")}</style>
</head>
<body>
<header><h1>{title}</h1>{banner}<p class="note">{_NOT_A_DEVICE}</p><nav></nav></header>
<main>
{chr(10).join(parts)}
</main>
<script>
"use strict";
{script}</script>
</body>
</html>
"""
