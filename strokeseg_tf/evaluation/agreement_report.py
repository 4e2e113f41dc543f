"""The folder that says how well a cohort's raters agree: tables and Fig. 2's picture."""

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from strokeseg_tf.evaluation import markdown
from strokeseg_tf.evaluation.agreement import BANDS, AgreementRow
from strokeseg_tf.evaluation.agreement_cohort import cohort_agreement
from strokeseg_tf.evaluation.agreement_figure import agreement_figure, icc_text, volume_figure
from strokeseg_tf.evaluation.table import plus_minus
from tfrecord_tools.atomic import check_free, new_folder

#: The machine-readable result, and what an agreement folder is known by.
RESULT = "agreement.json"

COLUMNS = (
    *("study", "group", "kind", "modality", "rater", "first", "second"),
    *("kappa", "band", "dice", "first_volume_ml", "second_volume_ml"),
)


def write_agreement(
    source: str | Path, out: str | Path, *, overwrite: bool = False, **options: Any
) -> dict[str, Any]:
    """Writes what `cohort_agreement` finds.

    Writes `agreement.json` (what is returned), `agreement.csv` (a row per study x comparison),
    `agreement.md` and `figures/` (`agreement` and `volumes`, as PNG and SVG).

    Args:
        source: see `cohort_agreement`.
        out: folder to write; it appears whole or not at all.
        overwrite: replace `out` if it is an earlier agreement.
        **options: see `cohort_agreement`, whose result is returned.

    Raises:
        InputError: as there, or `out` exists.
    """
    check_free(out, overwrite, marker=RESULT)
    result = cohort_agreement(source, **options)
    with new_folder(out, overwrite, marker=RESULT) as folder:
        _write(folder, result)
    return result


def _write(folder: Path, result: Mapping[str, Any]) -> None:
    (folder / "figures").mkdir()
    rows, summary = result["agreement"], result["agreement_summary"]
    agreement_figure(folder / "figures" / "agreement.png", rows, summary)
    volume_figure(folder / "figures" / "volumes.png", rows, summary)
    write_rows(folder / "agreement.csv", rows)
    text = json.dumps(result, indent=2, allow_nan=False)
    (folder / RESULT).write_text(text + "\n", encoding="utf-8")
    (folder / "agreement.md").write_text(agreement_markdown(result), encoding="utf-8")


def write_rows(path: Path, rows: Iterable[AgreementRow]) -> None:
    """Writes rows of agreement as CSV; floats as `repr`, so that reading gives the same bits."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for row in rows:
            named = {**row, "first": row["pair"][0], "second": row["pair"][1]}
            writer.writerow(named[column] for column in COLUMNS)


def agreement_markdown(result: Mapping[str, Any]) -> str:
    """The tables of a cohort's agreement as Markdown, with what they are over."""
    summary = result["agreement_summary"]
    title = "# Agreement between raters and between modalities"
    lines = [
        title + (" (phantom data)" if result["phantom"] else ""),
        "",
        f"{result['studies']} studies were compared, {result['controls']} of them controls.",
        "",
        *_table(("Comparison", "Studies", "Kappa", "Median", "Dice", *BANDS), map(_bands, summary)),
        "",
        "## Lesion volumes",
        "",
        *_table(("Comparison", "ICC", "Bias (ml)", "Limits (ml)"), map(_volumes, summary)),
        "",
        *_controls(summary),
    ]
    for rater in result["one_mask_for_both"]:
        text = f"The masks of {rater} on ADC and DWI are the same in every study: not compared."
        lines += [text, ""]
    if result["consensus"]:
        lines += [
            f"`{result['consensus']}` is the consensus of each study's raters. It is made of the "
            "very masks it is compared with, so that agreement is flattering.",
            "",
        ]
    if result["left_out"]:
        left = (
            f"- {markdown.escape(study)}: {markdown.escape(why)}"
            for study, why in result["left_out"].items()
        )
        lines += [f"Left out ({len(result['left_out'])}):", "", *left, ""]
    return "\n".join([*lines, result["note"], ""])


def _bands(entry: Mapping[str, Any]) -> list[str]:
    kappa, dice, n = entry["kappa"], entry["dice"], entry["studies"]
    median = "–" if kappa["median"] is None else f"{kappa['median']:.2f}"
    shares = [f"{c} ({100 * c / n:.0f} %)" if c else "0" for c in entry["bands"].values()]
    means = [plus_minus(kappa["mean"], kappa["sd"]), median, plus_minus(dice["mean"], dice["sd"])]
    return [entry["title"], str(n), *means, *shares]


def _volumes(entry: Mapping[str, Any]) -> list[str]:
    found = entry["volume_bland_altman"]
    if found["sd"] is None:
        return [entry["title"], icc_text(entry["icc"]), "–", "–"]
    low, high = found["bias_ci"]
    bias = f"{found['bias']:.2f} ({low:.2f} to {high:.2f})"
    return [
        *(entry["title"], icc_text(entry["icc"]), bias),
        f"{found['lower']:.2f} to {found['upper']:.2f}",
    ]


def _controls(summary: Sequence[Mapping[str, Any]]) -> list[str]:
    with_controls = [entry for entry in summary if entry["controls"]["studies"]]
    if not with_controls:
        return []
    rows = [
        [entry["title"], str(entry["controls"]["studies"]), str(len(entry["controls"]["marked"]))]
        for entry in with_controls
    ]
    titles = ("Comparison", "Controls", "Marked by one of the two or both")
    return ["## Controls", "", *_table(titles, rows), ""]


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return markdown.table(titles, ([markdown.escape(cell) for cell in row] for row in rows))
