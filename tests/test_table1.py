"""Table 1 as CSV and LaTeX: the same numbers as the summary's, and names that stay text."""

import csv
import re

import pytest

from strokeseg_tf.evaluation.scores import SCORE_KEYS
from strokeseg_tf.evaluation.table import summarise
from strokeseg_tf.evaluation.table1 import PAPER_TABLE1
from strokeseg_tf.evaluation.table1_files import table1_latex, write_table1

HOSTILE = r"run_1 & 50 % {\evil} $x^2~#"


def row(run, study, dice, rater="r1", modality="adc"):
    labels = {"run": run, "variant": "dual_v1", "study": study, "group": "stroke"}
    numbers = dict.fromkeys(SCORE_KEYS, dice)
    return {**labels, "modality": modality, "rater": rater, **numbers}


@pytest.fixture(scope="module")
def summary():
    rows = [row(HOSTILE, f"s{n}", 0.2 * n) for n in (1, 2, 3)]
    rows += [row("other", f"s{n}", 0.1 * n) for n in (1, 2, 3)]
    return summarise(rows, "paper") | {"phantom": True}


def test_csv_has_the_means_to_the_last_digit_and_the_published_rows(summary, tmp_path):
    write_table1(tmp_path, summary)
    with open(tmp_path / "table1.csv", newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    means = {r["run"]: r["all"]["scores"]["dice"] for r in summary["results"]}
    own = {line["run"]: line for line in lines if line["source"] == "run"}
    assert set(own) == set(means) == {HOSTILE, "other"}
    for run, line in own.items():
        assert float(line["r1_dice_mean"]) == means[run]["mean"]
        assert float(line["r1_dice_sd"]) == means[run]["sd"]
        assert line["studies"] == "3"
    published = {line["variant"]: line for line in lines if line["source"] == "published"}
    for variant, line in published.items():
        cells = PAPER_TABLE1["adc", variant]
        assert (float(line["r1_dice_mean"]), float(line["r1_dice_sd"])) == cells["r1", "dice"]
    assert set(published) == {variant for modality, variant in PAPER_TABLE1 if modality == "adc"}


def test_latex_rows_have_every_column_and_no_command_comes_from_a_name(summary):
    text = table1_latex(summary)
    body = re.search(r"\\toprule\n(.*)\\bottomrule", text, re.S)[1]
    lines = [line for line in body.splitlines() if line.endswith(r"\\")]
    columns = re.search(r"\\begin{tabular}{(l+c+)}", text)[1]
    for line in lines:
        assert len(re.findall(r"(?<!\\)&", line)) == len(columns) - 1
    [hostile] = [line for line in lines if "evil" in line]
    known = {"textbackslash", "textasciicircum", "textasciitilde", "pm", "textbf"}
    assert set(re.findall(r"\\([a-z]+)", hostile)) <= known
    assert r"run\_1 \& 50 \% \{" in hostile
    assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")
    assert "Phantom data" in text and r"\textbf{0.40 $\pm$ 0.20}" in hostile
