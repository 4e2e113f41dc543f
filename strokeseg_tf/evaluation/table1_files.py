"""Table 1 as files: Markdown to read, CSV to go on with, LaTeX for a paper."""

import csv
from pathlib import Path
from typing import Any

from strokeseg_tf.evaluation import markdown
from strokeseg_tf.evaluation.table import CONTROL_COLUMNS, control_rows
from strokeseg_tf.evaluation.table1 import (
    TABLE1_NOTE,
    VARIANT_TITLES,
    Table1Row,
    column_title,
    table1_columns,
    table1_rows,
)

#: Stands in the column of runs where the numbers are the paper's.
PUBLISHED = "published"


def write_table1(folder: Path | str, summary: dict[str, Any]) -> None:
    """Writes `table1.md`, `table1.csv` and `table1.tex` into an existing folder."""
    folder = Path(folder)
    (folder / "table1.md").write_text(table1_markdown(summary), encoding="utf-8")
    _write_csv(folder / "table1.csv", summary)
    (folder / "table1.tex").write_text(table1_latex(summary), encoding="utf-8")


def _write_csv(path: Path, summary: dict[str, Any]) -> None:
    """A row per run or published row; two columns, mean and sd, per rater and metric."""
    keys = table1_columns(summary)
    names = [f"{rater}_{metric}_{part}" for rater, metric in keys for part in ("mean", "sd")]
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["modality", "variant", "run", "source", "studies", *names])
        for row in table1_rows(summary):
            source = PUBLISHED if row.run is None else "run"
            numbers = [_number(value) for key in keys for value in row.moments(key)]
            writer.writerow([row.modality, row.variant, row.run or "", source, row.n, *numbers])


def _number(value: float | None) -> str:
    return "" if value is None else repr(float(value))


def table1_latex(summary: dict[str, Any]) -> str:
    """The table as a `table*` that needs the package booktabs; the note is its caption."""
    keys = table1_columns(summary)
    titles = ["Modality", "Model", "Run", "Studies", *(column_title(*key) for key in keys)]
    lines, before = [], None
    for row in table1_rows(summary):
        if before not in (None, row.modality):
            lines.append(r"\midrule")
        before = row.modality
        lines.append(_latex_row(row, keys))
    caption = "Phantom data: no claim of accuracy. " if summary.get("phantom") else ""
    convention = summary["convention"]
    caption += f"Convention of the runs: {convention['name']}. {convention['description']} "
    return "\n".join(
        [
            "% Needs \\usepackage{booktabs}.",
            r"\begin{table*}",
            r"\centering\footnotesize",
            rf"\begin{{tabular}}{{llll{'c' * len(keys)}}}",
            r"\toprule",
            " & ".join(map(_latex, titles)) + r" \\",
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            rf"\caption{{{_latex((caption + TABLE1_NOTE).replace('`', ''))}}}",
            r"\end{table*}",
            "",
        ]
    )


def _latex_row(row: Table1Row, keys: list[tuple[str, str]]) -> str:
    model = VARIANT_TITLES.get(row.variant, row.variant)
    name = rf"\emph{{{PUBLISHED}}}" if row.run is None else _latex(row.run)
    cells = [_latex(row.modality.upper()), _latex(model), name, str(row.n)]
    for key in keys:
        text = _latex(row.text(key))
        cells.append(rf"\textbf{{{text}}}" if key in row.best else text)
    return " & ".join(cells) + r" \\"


_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#",
    "%": r"\%", "_": r"\_", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}",
    "±": r"$\pm$", "–": "--", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    "\n": " ",
}  # fmt: skip


def _latex(text: str) -> str:
    """Keeps a name from turning into a command."""
    return text.translate(str.maketrans(_LATEX))


def table1_markdown(summary: dict[str, Any]) -> str:
    """The user's runs beside the paper's rows, then the controls, as Markdown."""
    columns, escape = table1_columns(summary), markdown.escape
    titles = ["Modality", "Model", "Run", "Studies", *(escape(column_title(*c)) for c in columns)]
    body = []
    for row in table1_rows(summary):
        name = f"*{PUBLISHED}*" if row.run is None else escape(row.run)
        model = VARIANT_TITLES.get(row.variant, escape(row.variant))
        cells = [f"**{row.text(key)}**" if key in row.best else row.text(key) for key in columns]
        body.append([escape(row.modality.upper()), model, name, str(row.n), *cells])
    title = "# Table 1 (phantom data)" if summary.get("phantom") else "# Table 1"
    convention = summary["convention"]
    stated = f"Convention of the runs: `{convention['name']}`. {convention['description']}"
    lines = [title, "", *markdown.table(titles, body), "", stated, "", TABLE1_NOTE, ""]
    return "\n".join([*lines, *_controls_markdown(summary), ""])


def _controls_markdown(summary: dict[str, Any]) -> list[str]:
    rows = [[markdown.escape(cell) for cell in row] for row in control_rows(summary)]
    if not rows:
        return ["## Controls", "", "No control studies were evaluated."]
    return ["## Controls", "", *markdown.table(CONTROL_COLUMNS, rows)]
