"""The statistics in the report: how numbers are written, what is drawn, what may be missing."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from strokeseg_tf.evaluation.figures import Figure
from strokeseg_tf.evaluation.panels import run_colours
from strokeseg_tf.evaluation.plots import plot_figure
from strokeseg_tf.evaluation.report import statistics, write_report
from strokeseg_tf.evaluation.report.charts import build_charts
from strokeseg_tf.evaluation.scores import SCORE_KEYS
from strokeseg_tf.evaluation.summary_plots import build_plots
from strokeseg_tf.evaluation.table import summarise

HOSTILE = '<b>&"$x_{%{text}'
TEST = {"statistic": -2.5, "df": 30, "p": 0.0180, "p_holm": 0.0540}
RANKS = {"statistic": 101.0, "p": 0.00004, "p_holm": 0.00012}
COMPARED = {"metric": "dice", "n": 31, "mean_difference": -0.1234, "ci": [-0.2, -0.05],
            "effect_size": -0.45, "t": TEST, "wilcoxon": RANKS}  # fmt: skip
WHO = {"run": HOSTILE, "modality": "adc", "rater": "r1"}
LIMITS = {"n": 2, "bias": -0.1, "sd": 0.2, "lower": -0.49, "upper": 0.29, "bias_ci": [-0.2, 0.0],
          "lower_ci": [-0.6, -0.4], "upper_ci": [0.2, 0.4]}  # fmt: skip
COMPARISON = {"kind": "raters", "modality": "adc", "rater": None, "pair": ["r1", "r2"]}
BANDS = {"poor": 0, "slight": 0, "fair": 0, "moderate": 1, "substantial": 1, "almost perfect": 0}


def agreement_row(study, kappa, group="stroke"):
    volumes = {"first_volume_ml": 10.0, "second_volume_ml": 12.0}
    return {"study": study, "group": group, **COMPARISON, "kappa": kappa, "band": "moderate",
            "dice": 0.6, **volumes}  # fmt: skip


def make_summary():
    rows = [score_row("s1", 0.5), score_row("s2", 0.7)]
    return rows, {
        **summarise(rows),
        "phantom": False,
        "alarms": [],
        "best_runs": [],
        "agreement": [
            agreement_row("s1", 0.5), agreement_row(HOSTILE, 0.7), agreement_row("c", 1, "control")
        ],
        "agreement_summary": [
            {**COMPARISON, "title": "R1 and R2 on ADC", "studies": 2, "bands": BANDS,
             "kappa": {"mean": 0.6, "sd": 0.1414, "median": 0.6},
             "dice": {"mean": 0.6, "sd": None, "median": 0.6},
             "icc": {"name": "ICC(2,1)", "value": 0.91, "lower": 0.8, "upper": 0.96},
             "volume_bland_altman": {**LIMITS, "bias": -2.0}}
        ],
        "statistics": {
            "methods": ["Paired and two-sided."],
            "between_runs": [{**WHO, "first": "a", "second": HOSTILE, **COMPARED}],
            "against_raters": [{**WHO, "pair": ["r1", "r2"], **COMPARED}],
            "bland_altman": [{**WHO, "pair": ["r1", "r2"], **LIMITS, "points": [
                {"study": HOSTILE, "mean": 0.5, "difference": -0.2},
                {"study": "s2", "mean": 0.6, "difference": 0.0}]}],
            "intervals": [{**WHO, "metric": "dice", "n": 2, "mean": 0.6, "lower": 0.5,
                           "upper": 0.7, "method": "bootstrap"}],
            "sizes": [
                {**WHO, "bin": "under 1 ml", "low_ml": 0, "high_ml": 1, "studies": 2, "missed": 1,
                 "dice": {"mean": 0.2, "sd": 0.1}, "sensitivity": {"mean": 0.3, "sd": 0.1}},
                {**WHO, "bin": "20 ml and more", "low_ml": 20, "high_ml": None, "studies": 0,
                 "missed": 0, "dice": {"mean": None, "sd": None},
                 "sensitivity": {"mean": None, "sd": None}},
            ],
        },
        "probabilities": [
            {**WHO, "thresholds": [0.25, 0.5, 0.75], "dice": [0.4, None, 0.3], "chosen": 0.31,
             "best": 0.25, "expected_calibration_error": 0.0421,
             "calibration": [
                 {"low": 0, "high": 0.5, "voxels": 90, "mean_probability": 0.1,
                  "lesion_share": 0.2},
                 {"low": 0.5, "high": 1, "voxels": 0, "mean_probability": None,
                  "lesion_share": None}]}
        ],
    }  # fmt: skip


def score_row(study, dice):
    labels = {"run": HOSTILE, "variant": "dual_v1", "study": study, "group": "stroke"}
    return {**labels, "modality": "adc", "rater": "r1", **dict.fromkeys(SCORE_KEYS, dice)}


class Cells(HTMLParser):
    """Texts of the cells, row by row."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.inside = [], False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag == "tr":
            self.rows.append([])
        self.inside = tag in ("td", "th", "strong")
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        self.inside = False

    def handle_data(self, data):
        if self.inside:
            self.rows[-1][-1] += data


@pytest.mark.parametrize(
    ("p", "text"),
    [(None, "–"), (0, "< 0.001"), (0.0009999, "< 0.001"), (0.001, "0.001"), (0.0496, "0.050"),
     (0.5, "0.500"), (0.9991, "> 0.999"), (1, "> 0.999")],
)  # fmt: skip
def test_p_values_as_people_write_them(p, text):
    assert statistics.p_value(p) == text


@pytest.mark.parametrize(
    ("number", "decimals", "signed", "text"),
    [(None, 2, False, "–"), (-0.126, 2, False, "−0.13"), (-0.001, 2, False, "0.00"),
     (-0.001, 2, True, "0.00"), (0.126, 2, True, "+0.13"), (12.0, 0, False, "12")],
)  # fmt: skip
def test_numbers_have_a_minus_sign_and_no_negative_zero(number, decimals, signed, text):
    assert statistics.number(number, decimals, signed) == text


def test_tests_between_runs_and_against_raters():
    rows = Cells(statistics.statistics_section(make_summary()[1])).rows
    same = ["31", "−0.123 [−0.200, −0.050]", "−0.45", "−2.50 (30)", "0.018", "0.054", "101.0",
            "< 0.001", "< 0.001"]  # fmt: skip
    assert ["ADC", "R1", "dice", "a", HOSTILE, *same] in rows
    assert ["ADC", "R1", "dice", HOSTILE, "R1 and R2 (Dice)", *same] in rows
    assert [HOSTILE, "ADC", "R1", "0.60 [0.50, 0.70]"] in rows


def test_agreement_and_sizes():
    summary = make_summary()[1]
    table = Cells(statistics.agreement_table(summary)).rows
    assert table[0][5:11] == list(BANDS)
    assert table[1] == ["R1 and R2 on ADC", "2", "0.60 ± 0.14", "0.60", "0.60", "0", "0", "0", "1",
                        "1", "0", "0.91 [0.80, 0.96]", "−2.0 [−0.5, 0.3]"]  # fmt: skip
    sizes = Cells(statistics.sizes_table(summary)).rows
    assert sizes == [["Run", "Modality", "Rater", "under 1 ml", "20 ml and more"],
                     [HOSTILE, "ADC", "R1", "0.20 ± 0.10 (n 2, 1 missed)", "–"]]  # fmt: skip


def test_undefined_everywhere_is_a_dash():
    summary = make_summary()[1]
    nothing = {"statistic": None, "df": None, "p": None, "p_holm": None}
    bare = {**WHO, "first": "a", "second": "b", "metric": "dice", "n": 1, "mean_difference": None,
            "ci": [None, None], "effect_size": None, "t": nothing, "wilcoxon": nothing}  # fmt: skip
    summary["statistics"] = {"between_runs": [bare]}
    row = Cells(statistics.statistics_section(summary)).rows[1]
    assert row[5:] == ["1", *["–"] * 8]


def test_there_is_a_figure_for_every_part_that_has_numbers():
    rows, summary = make_summary()
    plots = {plot.name: plot for plot in build_plots(summary)}
    assert list(plots) == ["bland_altman_dice", "agreement", "volumes", "lesion_size",
                           "calibration", "threshold"]  # fmt: skip
    points = plots["bland_altman_dice"].panels[0].series[0]
    assert (list(points.x), list(points.y)) == ([0.5, 0.6], [-0.2, 0.0])
    assert [level.value for level in plots["bland_altman_dice"].panels[0].levels] == [
        0.29,
        -0.1,
        -0.49,
    ]
    kappas = plots["agreement"].panels[0].series[0]
    assert list(kappas.y) == [0.5, 0.7]  # the control is not among the stroke studies
    assert [list(bar.y) for bar in plots["agreement"].panels[1].series] == [
        [0], [0], [0], [50], [50], [0]
    ]  # fmt: skip
    assert list(plots["volumes"].panels[0].series[0].y) == [-2.0, -2.0]
    assert list(plots["calibration"].panels[0].series[0].x) == [0.1]  # the empty bin is left out
    chosen = plots["threshold"].panels[0].series[1]
    assert (chosen.kind, list(chosen.x), list(chosen.y)) == ("chosen", [0.31], [0.4])
    assert set(build_charts(summary, rows)) == {"dice", *plots}


@pytest.mark.parametrize("missing", ["agreement_summary", "statistics", "probabilities", None])
def test_any_part_may_be_missing(missing, tmp_path):
    rows, summary = make_summary()
    for name in ("agreement", "agreement_summary", "statistics", "probabilities"):
        if missing in (name, None):
            del summary[name]
    path = write_report(tmp_path, summary=summary, rows=rows, figures=[], settings={})
    text = path.read_text(encoding="utf-8")
    assert ("Between runs" in text) == (missing not in ("statistics", None))
    assert ("Volume ICC" in text) == (missing not in ("agreement_summary", None))
    gone = {plot.name for plot in build_plots(summary)}
    whole = {plot.name for plot in build_plots(make_summary()[1])}
    assert gone < whole and (missing is not None or not gone)


def test_parts_may_be_empty():
    summary = {**make_summary()[1], "agreement": [], "agreement_summary": [], "probabilities": [],
               "statistics": {"between_runs": [], "sizes": [], "intervals": []}}  # fmt: skip
    assert build_plots(summary) == []
    assert statistics.statistics_section(summary) == "" == statistics.agreement_table(summary)
    assert statistics.sizes_table(summary) == ""


def shown_by_plotly(value):
    """Without the names of panels, which become options, and `customdata`, which is not shown."""
    if isinstance(value, list):
        return [shown_by_plotly(item) for item in value]
    if not isinstance(value, dict):
        return value
    hidden = {"customdata", "name"} if "data" in value else {"customdata"}
    return {key: shown_by_plotly(item) for key, item in value.items() if key not in hidden}


def test_charts_are_json_in_which_no_name_is_markup():
    rows, summary = make_summary()
    charts = build_charts(summary, rows)
    assert json.loads(json.dumps(charts, allow_nan=False)) == charts
    text = json.dumps(shown_by_plotly(charts))
    assert "<b>" not in text and "&lt;b&gt;&amp;" in text
    templates = re.findall(r'"hovertemplate": "([^"]*)"', text)
    assert templates and not any("$x_" in template for template in templates)
    assert charts["bland_altman_dice"]["panels"][0]["data"][0]["customdata"] == [HOSTILE, "s2"]


def test_figures_are_png_and_svg_with_letters_as_text(tmp_path):
    for plot in build_plots(make_summary()[1]):
        figure = plot_figure(tmp_path / f"{plot.name}.png", replace(plot, panels=plot.panels[:1]))
        assert isinstance(figure, Figure) and len(figure.alt) > 60
        assert figure.path.read_bytes().startswith(b"\x89PNG")
        vector = figure.path.with_suffix(".svg").read_text(encoding="utf-8")
        assert "<text" in vector and "<dc:date>" not in vector and "<b>" not in vector


def test_a_run_keeps_its_colour():
    colours = run_colours(["a", "b", "a", "c"])
    assert list(colours) == ["a", "b", "c"] and len(set(colours.values())) == 3
    assert run_colours(["a", "b"]) == {name: colours[name] for name in "ab"}
