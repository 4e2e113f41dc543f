"""The sections that are words and tables of one run after the other."""

import json
from collections.abc import Mapping, Sequence
from html import escape
from math import isfinite
from typing import Any

from strokeseg_tf.evaluation import table, table1
from strokeseg_tf.evaluation.report import markup
from strokeseg_tf.evaluation.scores import SCORE_KEYS
from strokeseg_tf.evaluation.table import COLUMNS, LABELS, Row

_DECIMALS = {"lesion_count_difference": 0, "hd95_mm": 1, "assd_mm": 2}


def summary_section(summary: Mapping[str, Any]) -> str:
    """What is good, what failed, and what the numbers mean."""
    alarms = summary["alarms"]
    box = (
        f'<div class="alarm" role="note"><h3>Alarms</h3>{markup.bullets(alarms)}</div>'
        if alarms
        else '<div class="good" role="note"><h3>No alarms</h3><p>Every lesion that a rater drew was'
        " answered with a prediction, and no control was marked.</p></div>"
    )
    runs = dict.fromkeys((result["run"], result["variant"]) for result in summary["results"])
    names = ", ".join(f"{run} ({table1.VARIANT_TITLES.get(v, v)})" for run, v in runs)
    counts = f"{summary['studies']} studies, {summary['controls']} of them controls. Runs: {names}."
    convention = summary["convention"]
    stated = f"Convention {convention['name']}. {convention['description']}"
    inner = f"<p>{escape(counts)}</p>{box}<h3>Best run per modality and rater</h3>"
    inner += markup.bullets(summary["best_runs"]) + markup.note(stated)
    return markup.section("Summary", inner)


def table1_section(summary: Mapping[str, Any]) -> str:
    """Table 1: the user's runs, the paper's rows beside them."""
    columns = table1.table1_columns(summary)
    titles = ["Modality", "Model", "Run", "Studies"]
    titles += [table1.column_title(*column) for column in columns]
    body = []
    for row in table1.table1_rows(summary):
        model = table1.VARIANT_TITLES.get(row.variant, row.variant)
        run = "published" if row.run is None else row.run
        cells = [markup.cell(text) for text in (row.modality.upper(), model, run, str(row.n))]
        for key in columns:
            text = row.text(key)
            strong = f"<td><strong>{escape(text)}</strong></td>"
            cells.append(strong if key in row.best else markup.cell(text))
        kind = ' class="published"' if row.run is None else ""
        body.append(f"<tr{kind}>{''.join(cells)}</tr>")
    inner = markup.table("Table 1", titles, body) + markup.note(table1.TABLE1_NOTE)
    return markup.section("Table 1 beside the paper's", inner)


def controls_section(summary: Mapping[str, Any]) -> str:
    """What was marked where no lesion is."""
    rows = table.control_rows(summary)
    if not rows:
        return markup.section("Controls", "<p>No control studies were evaluated.</p>")
    body = [markup.cells(row) for row in rows]
    return markup.section("Controls", markup.table("Controls", table.CONTROL_COLUMNS, body))


def scores_section(rows: Sequence[Row]) -> str:
    """Every row of the score table, to be sorted."""
    titles = [f'<button type="button">{escape(column_title(name))}</button>' for name in COLUMNS]
    heads = "".join(f'<th scope="col">{title}</th>' for title in titles)
    body = "".join(_score_row(row) for row in rows)
    sheet = f'<table class="sortable"><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>'
    hint = '<p class="note">Press a heading to sort by it, again to turn the order. "–": undefined.'
    hint += ' <span id="sorted" role="status"></span></p>'
    return markup.section("All scores", hint + markup.scroller("All scores", sheet, "tall"))


def _score_row(row: Row) -> str:
    cells = [markup.cell(str(row[name])) for name in LABELS]
    for key in SCORE_KEYS:
        value, text = "", "–"
        if isfinite(row[key]):
            value, text = repr(float(row[key])), f"{row[key]:.{_DECIMALS.get(key, 3)}f}"
        cells.append(f'<td class="number" data-value="{value}">{text}</td>')
    return f"<tr>{''.join(cells)}</tr>"


def column_title(column: str) -> str:
    """A column's name for people, its unit in brackets."""
    for unit in ("ml", "mm"):
        if column.endswith(f"_{unit}"):
            return f"{column_title(column.removesuffix(f'_{unit}'))} ({unit})"
    words = column.replace("_", " ")
    return words.upper() if words in ("hd95", "assd") else words.replace(" f1", " F1")


def settings_section(settings: Mapping[str, Any]) -> str:
    """Settings, data manifest and versions: long ones folded away, all of them printed."""
    lines = []
    for name, value in settings.items():
        nested = isinstance(value, Mapping | list | tuple)
        text = json.dumps(value, indent=1, default=str) if nested else str(value)
        shown = f"<pre>{escape(text)}</pre>"
        if text.count("\n") > 12:
            shown = f"<details><summary>{text.count(chr(10)) + 1} lines</summary>{shown}</details>"
        lines.append(f"<dt>{escape(str(name))}</dt><dd>{shown}</dd>")
    return markup.section("Settings, data and versions", f"<dl>{''.join(lines)}</dl>")
