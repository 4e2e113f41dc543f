"""The evaluation report: one HTML file that needs no network, no server and no other file."""

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from math import isfinite
from pathlib import Path
from typing import Any

from strokeseg_tf.evaluation import table
from strokeseg_tf.evaluation.agreement import LANDIS_KOCH_BANDS
from strokeseg_tf.evaluation.figures import Figure
from strokeseg_tf.evaluation.scores import SCORE_KEYS
from strokeseg_tf.evaluation.table import COLUMNS, LABELS, Row, rater_title

_NOT_A_DEVICE = (
    "This is research software, not a medical device: nothing here may guide the diagnosis or "
    "treatment of a patient."
)
_PHANTOM = (
    "Phantom data: every image and mask here is synthetic. The numbers show that the chain works; "
    "they say nothing about accuracy on patients."
)
_DECIMALS = {"lesion_count_difference": 0, "hd95_mm": 1, "assd_mm": 2}


def write_report(
    out: Path | str,
    *,
    summary: Mapping[str, Any],
    rows: Sequence[Row],
    figures: Sequence[Figure],
    settings: Mapping[str, Any],
) -> Path:
    """Writes `report.html` into the folder `out` and returns its path.

    Args:
        out: an existing folder.
        summary: as `evaluate_cases` returns it: of `table.summarise`, with `alarms`, `best_runs`,
            `agreement` and `phantom`.
        rows: every row of the score table.
        figures: PNG files to embed, under the heading each of them names.
        settings: printed at the end, nested values as JSON.
    """
    body = [
        _summary_section(summary),
        _table1_section(summary),
        _controls_section(summary),
        _agreement_section(summary["agreement"]),
        *_figure_sections(figures),
        _scores_section(rows),
        _settings_section(settings),
    ]
    path = Path(out) / "report.html"
    path.write_text(_page(summary, [section for section in body if section]), encoding="utf-8")
    return path


def _summary_section(summary: Mapping[str, Any]) -> str:
    alarms = summary["alarms"]
    box = (
        f'<div class="alarm" role="note"><h3>Alarms</h3>{_list(alarms)}</div>'
        if alarms
        else '<div class="good" role="note"><h3>No alarms</h3><p>Every lesion that a rater drew was'
        " answered with a prediction, and no control was marked.</p></div>"
    )
    runs = dict.fromkeys((result["run"], result["variant"]) for result in summary["results"])
    names = ", ".join(f"{run} ({table.VARIANT_TITLES.get(v, v)})" for run, v in runs)
    counts = f"{summary['studies']} studies, {summary['controls']} of them controls. Runs: {names}."
    convention = summary["convention"]
    stated = f"Convention {convention['name']}. {convention['description']}"
    inner = f"<p>{escape(counts)}</p>{box}<h3>Best run per modality and rater</h3>"
    inner += _list(summary["best_runs"]) + f'<p class="note">{escape(stated)}</p>'
    return _section("Summary", inner)


def _table1_section(summary: Mapping[str, Any]) -> str:
    columns = table.table1_columns(summary)
    titles = ["Modality", "Model", "Run", "Studies"]
    titles += [table.column_title(*column) for column in columns]
    body = []
    for row in table.table1_rows(summary):
        model = table.VARIANT_TITLES.get(row.variant, row.variant)
        run = "published" if row.run is None else row.run
        cells = [_cell(text) for text in (row.modality.upper(), model, run, str(row.n))]
        for key in columns:
            text = escape(row.text(key))
            cells.append(f"<td><strong>{text}</strong></td>" if key in row.best else _cell(text))
        kind = ' class="published"' if row.run is None else ""
        body.append(f"<tr{kind}>{''.join(cells)}</tr>")
    note = f'<p class="note">{escape(table.TABLE1_NOTE)}</p>'
    return _section("Table 1 beside the paper's", _table("Table 1", titles, body) + note)


def _controls_section(summary: Mapping[str, Any]) -> str:
    rows = table.control_rows(summary)
    if not rows:
        return _section("Controls", "<p>No control studies were evaluated.</p>")
    body = [_cells(row) for row in rows]
    return _section("Controls", _table("Controls", table.CONTROL_COLUMNS, body))


def _agreement_section(agreement: Iterable[Mapping[str, Any]]) -> str:
    pools: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for row in agreement:
        pools.setdefault((row["modality"], *row["raters"]), []).append(row)
    bands = ["poor", *(band for _, band in LANDIS_KOCH_BANDS)]
    body = []
    for (modality, *raters), pool in pools.items():
        counts = [str(sum(row["band"] == band for row in pool)) for band in bands]
        mean = sum(row["kappa"] for row in pool) / len(pool)
        pair = " and ".join(rater_title(rater) for rater in raters)
        body.append(_cells([modality.upper(), pair, str(len(pool)), f"{mean:.2f}", *counts]))
    if not body:
        return ""
    note = (
        '<p class="note">Voxel-wise Cohen\'s kappa per study; two empty masks agree (1). The last '
        "columns count studies per band of Landis and Koch (1977).</p>"
    )
    titles = ["Modality", "Raters", "Studies", "Mean kappa", *bands]
    return _section("Agreement between raters", _table("Agreement", titles, body) + note)


def _figure_sections(figures: Sequence[Figure]) -> list[str]:
    sections: dict[str, list[str]] = {}
    for figure in figures:
        data = base64.b64encode(figure.path.read_bytes()).decode("ascii")
        picture = f'<img src="data:image/png;base64,{data}" alt="{escape(figure.alt)}">'
        caption = f"<figcaption>{escape(figure.caption)}</figcaption>"
        framed = f"<figure>{_scroller(figure.caption, picture)}{caption}</figure>"
        sections.setdefault(figure.heading, []).append(framed)
    return [_section(heading, "".join(pictures)) for heading, pictures in sections.items()]


def _scores_section(rows: Sequence[Row]) -> str:
    titles = [f'<button type="button">{escape(_title(name))}</button>' for name in COLUMNS]
    heads = "".join(f'<th scope="col">{title}</th>' for title in titles)
    body = "".join(_score_row(row) for row in rows)
    sheet = f'<table class="sortable"><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>'
    hint = '<p class="note">Press a heading to sort by it, again to turn the order. "–": undefined.'
    hint += ' <span id="sorted" role="status"></span></p>'
    return _section("All scores", hint + _scroller("All scores", sheet, "tall"))


def _score_row(row: Row) -> str:
    cells = [f"<td>{escape(str(row[name]))}</td>" for name in LABELS]
    for key in SCORE_KEYS:
        value, text = "", "–"
        if isfinite(row[key]):
            value, text = repr(float(row[key])), f"{row[key]:.{_DECIMALS.get(key, 3)}f}"
        cells.append(f'<td class="number" data-value="{value}">{text}</td>')
    return f"<tr>{''.join(cells)}</tr>"


def _title(column: str) -> str:
    """A column's name for people, its unit in brackets."""
    for unit in ("ml", "mm"):
        if column.endswith(f"_{unit}"):
            return f"{_title(column.removesuffix(f'_{unit}'))} ({unit})"
    words = column.replace("_", " ")
    return words.upper() if words in ("hd95", "assd") else words.replace(" f1", " F1")


def _settings_section(settings: Mapping[str, Any]) -> str:
    lines = []
    for name, value in settings.items():
        nested = isinstance(value, Mapping | list | tuple)
        text = json.dumps(value, indent=1, default=str) if nested else str(value)
        lines.append(f"<dt>{escape(str(name))}</dt><dd><pre>{escape(text)}</pre></dd>")
    return _section("Settings and versions", f"<dl>{''.join(lines)}</dl>")


def _section(title: str, inner: str) -> str:
    return f'<section id="{_anchor(title)}"><h2>{escape(title)}</h2>{inner}</section>'


def _anchor(title: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in title.lower())


def _list(sentences: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(sentence)}</li>' for sentence in sentences)}</ul>"


def _cell(text: str) -> str:
    return f"<td>{escape(text)}</td>"


def _cells(texts: Iterable[str]) -> str:
    return f"<tr>{''.join(_cell(text) for text in texts)}</tr>"


def _table(name: str, titles: Iterable[str], body: Iterable[str]) -> str:
    heads = "".join(f'<th scope="col">{escape(title)}</th>' for title in titles)
    sheet = f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(body)}</tbody></table>"
    return _scroller(name, sheet)


def _scroller(name: str, sheet: str, kind: str = "") -> str:
    """Wide tables scroll inside their own region, which the keyboard can reach."""
    label = f'role="region" aria-label="{escape(name)}" tabindex="0"'
    return f'<div class="scroll {kind}" {label}>{sheet}</div>'


def _page(summary: Mapping[str, Any], sections: Sequence[str]) -> str:
    phantom = summary["phantom"]
    title = "Stroke segmentation: evaluation" + (" on phantom data" if phantom else "")
    banner = f'<p class="phantom">{_PHANTOM}</p>' if phantom else ""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>{title}</title>
<style>{_STYLE}</style>
</head>
<body>
<header><h1>{title}</h1>{banner}<p class="note">{_NOT_A_DEVICE}</p></header>
<main>
{chr(10).join(sections)}
</main>
<script>{_SCRIPT}</script>
</body>
</html>
"""


_STYLE = """
:root { --ink: #1b1f24; --soft: #59636e; --paper: #fff; --line: #d5dae0; --tint: #f4f6f8;
  --alarm: #b3261e; --alarm-tint: #fdf0ee; --good: #0b6b4f; --good-tint: #eaf6f1; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e7ea; --soft: #a3adb8; --paper: #14171a;
  --line: #363d45; --tint: #1e2327; --alarm: #ff9c92; --alarm-tint: #371c19; --good: #7fd6b4;
  --good-tint: #15302a; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem clamp(.8rem, 3vw, 2rem) 3rem; max-width: 78rem;
  font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: .6rem 0; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem; }
h3 { font-size: 1rem; margin: .9rem 0 .2rem; }
ul { margin: .2rem 0; padding-left: 1.2rem; } figure { margin: 0 0 1.2rem; }
.note, figcaption { color: var(--soft); font-size: .88rem; }
.alarm, .good, .phantom { border-left: 4px solid; border-radius: 4px; padding: .2rem .9rem .6rem;
  margin: .8rem 0; }
.alarm { border-color: var(--alarm); background: var(--alarm-tint); }
.good, .phantom { border-color: var(--good); background: var(--good-tint); }
.phantom { padding-top: .6rem; } .alarm h3 { color: var(--alarm); } .good h3 { color: var(--good); }
.scroll { overflow: auto; border: 1px solid var(--line); border-radius: 6px; }
.tall { max-height: 36rem; } td.number { text-align: right; }
table { border-collapse: collapse; width: 100%; font-size: .85rem;
  font-variant-numeric: tabular-nums; overflow-wrap: normal; }
th, td { padding: .32rem .6rem; text-align: left; white-space: nowrap;
  border-bottom: 1px solid var(--line); }
tbody tr:last-child td { border-bottom: 0; }
th { background: var(--tint); position: sticky; top: 0; vertical-align: bottom;
  white-space: normal; min-width: 4.6rem; }
tr.published td { color: var(--soft); font-style: italic; }
th button { all: unset; cursor: pointer; display: block; width: 100%; }
th button::after { content: " \\2195"; opacity: .4; }
th[aria-sort=ascending] button::after { content: " \\2191"; opacity: 1; }
th[aria-sort=descending] button::after { content: " \\2193"; opacity: 1; }
:focus-visible, th button:focus-visible { outline: 2px solid #2f81f7; outline-offset: 2px; }
figure .scroll { width: fit-content; max-width: 100%; }
img { max-width: 100%; min-width: 42rem; height: auto; display: block; }
dt { font-weight: 600; } dd { margin: 0 0 .5rem; }
pre { margin: 0; white-space: pre-wrap; font-size: .85rem; }
@page { size: A4 landscape; }
@media print { thead { display: table-row-group; }
  body { max-width: none; font-size: 10pt; padding: 0; }
  .scroll { overflow: visible; max-height: none; border: 0; } table { font-size: 7pt; }
  th, td { padding: 1pt 3pt; min-width: 0; position: static; }
  figure, tr { break-inside: avoid; } h2 { break-after: avoid; } img { min-width: 0; }
  th button::after { content: ""; } }
"""

_SCRIPT = """
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
  const value = (row, at) => row.cells[at].dataset.value ?? row.cells[at].textContent;
  heads.forEach((head, at) => head.firstElementChild.addEventListener("click", () => {
    const up = head.getAttribute("aria-sort") !== "ascending";
    const numeric = "value" in (body.rows[0]?.cells[at].dataset ?? {});
    const compare = (a, b) => {
      const x = value(a, at), y = value(b, at);
      if (numeric && (x === "" || y === "")) return (x === "") - (y === "");
      const order = numeric ? x - y : x.localeCompare(y, undefined, {numeric: true});
      return up ? order : -order;
    };
    body.append(...[...body.rows].sort(compare));
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    document.getElementById("sorted").textContent =
      `Sorted by ${head.textContent}, ${up ? "ascending" : "descending"}.`;
  }));
}
"""
