"""A whole evaluation of small blobs: the files, the report as a browser reads it, the pictures."""

import csv
import json
from dataclasses import replace
from html.parser import HTMLParser
from math import isnan, nan

import nibabel
import numpy as np
import pytest
from PIL import Image

from strokeseg_tf.evaluation import table, table1
from strokeseg_tf.evaluation.contours import overlay_figure
from strokeseg_tf.evaluation.evaluate import Case, evaluate_cases, file_name
from strokeseg_tf.evaluation.scores import SCORE_KEYS, scores
from tfrecord_tools.errors import InputError

SHAPE = (6, 24, 20)
HOSTILE = "<script>alert(1)</script>$x_{$|é"
RUNS = {"first": "dual_v1", "second": "unimodal"}
STATISTICS = {"dice", "bland_altman_dice", "agreement", "volumes", "lesion_size"}
VOID = {"meta", "link", "img", "br", "hr", "input"}


def ball(centre, radius):
    grid = np.moveaxis(np.indices(SHAPE), 0, -1)
    return np.sqrt((((grid - centre) * (3, 1, 1)) ** 2).sum(-1)) <= radius


def make_case(study, group="stroke", offset=1):
    """Two raters a voxel apart; `first` predicts both modalities, `second` ADC only."""
    lesion = ball((3, 12, 9), 5) if group == "stroke" else np.zeros(SHAPE, bool)
    images = {
        "adc": np.where(lesion, 0.6, 0.9).astype(np.float32),
        "dwi": np.where(lesion, 700, 300).astype(np.float32),
    }
    references = {(r, m): np.roll(lesion, r == "r2", 1) for r in ("r1", "r2") for m in images}
    first = {modality: np.roll(lesion, offset, 2) for modality in images}
    second = {"adc": np.zeros(SHAPE, bool) if group == "stroke" else ball((2, 5, 5), 3)}
    predictions = {"first": first, "second": second}
    affine = np.diag([-0.9, 0.9, 6.0, 1])
    return Case(study, group, (6.0, 0.9, 0.9), affine, images, references, predictions)


@pytest.fixture(scope="module")
def cases():
    return [make_case(HOSTILE), make_case("s2", offset=3), make_case("c1", "control")]


@pytest.fixture(scope="module")
def evaluation(cases, tmp_path_factory):
    out = tmp_path_factory.mktemp("work") / "evaluation"
    settings = {"phantom": True, "threshold": 0.5, "note": "<b>bold</b>", "nested": {"a": [1]}}
    summary = evaluate_cases(iter(cases), RUNS, out, settings=settings, overlays=2)
    return out, summary


class Page(HTMLParser):
    """Collects what a browser would build, and fails on tags that do not nest."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.text, self.rows = [], [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag == "td":
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)
        if "td" in self.open:
            self.rows[-1][-1] += data


@pytest.fixture(scope="module")
def page(evaluation):
    return Page((evaluation[0] / "report.html").read_text(encoding="utf-8"))


def test_the_folder_is_complete(evaluation):
    out, summary = evaluation
    names = {path.name for path in out.iterdir()}
    tables = {"table1.md", "table1.csv", "table1.tex"}
    assert names == {"scores.csv", "summary.json", "report.html", "figures"} | tables
    assert json.loads((out / "summary.json").read_text()) == summary
    assert [path.name for path in out.parent.iterdir()] == ["evaluation"]


def test_a_row_per_run_study_modality_and_rater(evaluation, cases):
    rows = table.read_scores(evaluation[0] / "scores.csv")
    # `second` has no DWI: 2 + 1 modalities, 2 raters, 3 studies.
    assert len(rows) == (2 + 1) * 2 * 3
    for row in rows:
        case = next(case for case in cases if case.study == row["study"])
        reference = case.references[row["rater"], row["modality"]]
        expected = scores(reference, case.predictions[row["run"]][row["modality"]], case.spacing_mm)
        assert {key: row[key] for key in SCORE_KEYS} == pytest.approx(expected, abs=0, nan_ok=True)
        assert (row["variant"], row["group"]) == (RUNS[row["run"]], case.group)


def test_scores_survive_the_file_to_the_last_bit(tmp_path):
    labels = dict(zip(table.LABELS, ("run", "v", 'a,"b"\n', "stroke", "adc", "r1"), strict=True))
    values = [0.1 + 0.2, 1 / 3, nan, 5e-324, 87.0, 1e300, -0.0, 2.0, 3.0, np.float64(0.1)]
    rows = [{**labels, **dict(zip(SCORE_KEYS, values, strict=True))}]
    table.write_scores(tmp_path / "scores.csv", rows)
    again = table.read_scores(tmp_path / "scores.csv")[0]
    assert tuple(again) == table.COLUMNS and {k: again[k] for k in labels} == labels
    for key, value in zip(SCORE_KEYS, values, strict=True):
        assert isnan(again[key]) if isnan(value) else again[key] == value


def test_a_foreign_table_is_refused(tmp_path):
    (tmp_path / "scores.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="columns run, variant.*Received"):
        table.read_scores(tmp_path / "scores.csv")


def test_means_and_both_deviations_equal_those_of_the_scores_on_disk(evaluation):
    out, summary = evaluation
    with open(out / "scores.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    labels = ("run", "modality", "rater")
    for result in summary["results"]:
        chosen = [row for row in rows if all(row[name] == result[name] for name in labels)]
        values = [float(row["dice"]) for row in chosen]
        moments = result["all"]["scores"]["dice"]
        assert moments["n"] == len(values)
        assert moments["mean"] == pytest.approx(np.mean(values))
        assert moments["sd"] == pytest.approx(np.std(values, ddof=1))
        # What the authors' code does: the mean becomes a row, then the deviation is taken.
        appended = [*values, np.mean(values)]
        assert moments["sd_as_published"] == pytest.approx(np.std(appended, ddof=1))


def test_controls_and_empty_predictions_are_reported_apart(evaluation):
    results = {(r["run"], r["modality"], r["rater"]): r for r in evaluation[1]["results"]}
    second = results["second", "adc", "r1"]
    assert second["stroke"]["n"] == 2 and second["control"]["n"] == 1
    assert second["stroke"]["empty_predictions"] == second["stroke"]["missed"] == [HOSTILE, "s2"]
    found = second["control"]["false_positives"]
    volume = ball((2, 5, 5), 3).sum() * 6 * 0.9 * 0.9 / 1000
    assert found["studies"] == ["c1"] and found["max_volume_ml"] == pytest.approx(volume)
    first = results["first", "adc", "r1"]
    assert first["control"]["scores"]["dice"]["mean"] == 1
    assert first["control"]["scores"]["hd95_mm"] == {
        "n": 0, "mean": None, "sd": None, "sd_as_published": None,
    }  # fmt: skip
    assert first["stroke"]["missed"] == [] == first["control"]["false_positives"]["studies"]


def test_alarms_name_what_went_wrong(evaluation):
    missed, marked = evaluation[1]["alarms"]
    assert "second marks no lesion on ADC in 2 stroke studies" in missed and HOSTILE in missed
    assert "second marks a lesion on ADC in 1 control (c1)" in marked


def test_table1_holds_the_paper_and_marks_the_best_run(evaluation):
    text = (evaluation[0] / "table1.md").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith("| ADC")]
    published = next(line for line in lines if "Dual V1 | *published*" in line)
    assert "| 31 | 0.56 ± 0.28 | 0.71 ± 0.28 | 0.44 ± 0.30 | 0.60 ± 0.29 |" in published
    first = next(line for line in lines if "| first |" in line)
    assert first.count("**") == 2 * 6 and "**" not in published
    assert lines.index(first) == lines.index(published) - 1
    # `first` stands alone on DWI: there is nothing to be best of.
    assert "**" not in next(line for line in text.splitlines() if "| DWI | Dual V1 | first" in line)
    assert "`isles22`" in text and "phantom" in text and "not comparable" in text
    assert "## Controls" in text and "| second | ADC | 1 | 1 |" in text


def test_the_papers_numbers():
    assert len(table1.PAPER_TABLE1) == 8
    assert table1.PAPER_TABLE1["dwi", "dual_v3"]["r2", "sensitivity"] == (0.50, 0.31)
    assert table1.PAPER_TABLE1["adc", "unimodal"]["r1", "dice"] == (0.28, 0.30)


def test_the_report_loads_nothing_from_elsewhere(page):
    for _, attributes in page.tags:
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            assert attributes.get(name, "data:").startswith(("data:", "#"))
    text = "".join(page.text)
    assert "url(" not in text and "@import" not in text and "fetch(" not in text
    policy = next(a for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy["content"].startswith("default-src 'none'")


def test_the_report_takes_no_markup_from_data(page):
    scripts = [attributes.get("type") for tag, attributes in page.tags if tag == "script"]
    assert scripts.count(None) == 1 and set(scripts) == {None, "application/json"}
    assert "b" not in {tag for tag, _ in page.tags}
    assert HOSTILE in "".join(page.text)


def test_no_name_of_any_kind_becomes_markup(cases, tmp_path):
    name = '"><u>x</u>|_$^{'
    references = {(f"<u>{r}", m): mask for (r, m), mask in cases[1].references.items()}
    predictions = {name: cases[1].predictions["first"]}
    hostile = replace(cases[1], references=references, predictions=predictions)
    runs = {name: name, "<u>lost": "<u>"}
    evaluate_cases([hostile], runs, tmp_path / "out", settings={name: name})
    page = Page((tmp_path / "out" / "report.html").read_text(encoding="utf-8"))
    assert "u" not in {tag for tag, _ in page.tags}
    assert name in "".join(page.text)
    assert "<u>" not in (tmp_path / "out" / "table1.md").read_text(encoding="utf-8")


def test_undefined_everywhere_is_still_a_report(cases, tmp_path):
    evaluate_cases([cases[2]], {"first": "dual_v1", "second": "unimodal"}, tmp_path / "out",
                   convention="nnunet")  # fmt: skip
    row = table.read_scores(tmp_path / "out" / "scores.csv")[0]
    assert isnan(row["dice"]) and "NaN" not in (tmp_path / "out" / "summary.json").read_text()


def test_the_report_says_everything(page, evaluation):
    text = "".join(page.text)
    rows = table.read_scores(evaluation[0] / "scores.csv")
    shown = [row[:6] for row in page.rows if len(row) == len(table.COLUMNS)]
    assert shown == [[row[name] for name in table.LABELS] for row in rows]
    for sentence in [*evaluation[1]["alarms"], *evaluation[1]["best_runs"]]:
        assert sentence in text
    assert evaluation[1]["convention"]["description"] in text
    assert "not a medical device" in text and "Phantom data" in text
    assert "0.56 ± 0.28" in text and "published" in text
    assert np.__version__ in text and "<b>bold</b>" in text


def test_every_picture_has_words_and_every_heading_a_button(page):
    pictures = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(pictures) == len(STATISTICS) + 2 and all(
        len(picture["alt"]) > 30 for picture in pictures
    )
    assert [tag for tag, _ in page.tags].count("button") == len(table.COLUMNS) + len(
        ("Previous", "Next")
    )


def test_figures_are_small_and_their_names_plain(evaluation):
    figures = sorted((evaluation[0] / "figures").iterdir())
    assert [path.suffix for path in figures] == [".png", ".svg"] * (len(STATISTICS) + 2)
    assert {path.stem for path in figures} >= STATISTICS
    for path in figures:
        assert path.stat().st_size < 250_000
        assert file_name(path.name) == path.name


def test_without_controls_second_rater_or_phantom(cases, tmp_path):
    bare = replace(cases[1], references={("r1", "adc"): cases[1].references["r1", "adc"]})
    evaluate_cases([bare], RUNS, tmp_path / "out", convention="nnunet", overlays=0)
    page = Page((tmp_path / "out" / "report.html").read_text(encoding="utf-8"))
    text = "".join(page.text)
    assert "No control studies" in text and "Phantom" not in text and "nnunet" in text
    assert "Agreement between raters" not in text


def test_an_evaluation_is_not_overwritten_unasked(cases, tmp_path):
    evaluate_cases(cases[:1], RUNS, tmp_path / "out", overlays=0)
    with pytest.raises(InputError, match="overwrite"):
        evaluate_cases(cases, RUNS, tmp_path / "out", overlays=0)
    evaluate_cases(cases, RUNS, tmp_path / "out", overlays=0, overwrite=True)
    assert len(table.read_scores(tmp_path / "out" / "scores.csv")) == 18
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_of_something_else_is_never_replaced(cases, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="no summary.json"):
        evaluate_cases(cases, RUNS, tmp_path / "home", overwrite=True)
    assert (tmp_path / "home" / "thesis.txt").read_text() == "years of work"


def test_a_failure_leaves_nothing_behind(cases, tmp_path):
    def broken():
        yield cases[0]
        raise OSError("the disk went away")

    with pytest.raises(OSError, match="went away"):
        evaluate_cases(broken(), RUNS, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "runs", "message"),
    [
        (lambda cases: [], RUNS, "no case of 0"),
        (lambda cases: [replace(cases[0], references={})], RUNS, "no case of 1"),
        (lambda cases: [cases[0], cases[0]], RUNS, "unique.*Received"),
        (lambda cases: cases, {"first": "dual_v1"}, "predictions must be of first.*Received"),
    ],
)
def test_what_cannot_be_evaluated_is_told(cases, tmp_path, change, runs, message):
    with pytest.raises(ValueError, match=message):
        evaluate_cases(change(cases), runs, tmp_path / "out", overlays=0)
    assert list(tmp_path.iterdir()) == []


def test_a_run_without_any_score_is_an_alarm(cases, tmp_path):
    summary = evaluate_cases(cases, {**RUNS, "lost": "dual_v2"}, tmp_path / "out", overlays=0)
    assert summary["runs_without_scores"] == ["lost"] and "lost" in summary["alarms"][0]


def test_a_case_keeps_to_one_grid(cases):
    with pytest.raises(ValueError, match="share one grid.*Received"):
        replace(cases[0], images={"adc": np.zeros((1, 2, 3), np.float32)})


def axis_affine(axes, size):
    """Affine of a centred grid of 1 mm voxels whose axes run towards these directions."""
    affine = np.zeros((4, 4))
    affine[3, 3] = 1
    for file_axis, (world, sign) in enumerate(nibabel.orientations.axcodes2ornt(axes).astype(int)):
        affine[world, file_axis] = sign
        affine[world, 3] -= sign * (size[file_axis] - 1) / 2
    return affine


@pytest.mark.parametrize("axes", ["RAS", "LPI", "ASL", "PIR", "SRA", "IRP"])
def test_pictures_show_the_slices_that_they_name(axes, tmp_path):
    """Nine slices, each brighter than the last; the middle ones are shown, dark to bright."""
    image = np.linspace(0.2, 2.6, 9, dtype=np.float32)[:, None, None].repeat(40, 1).repeat(40, 2)
    figure = overlay_figure(
        tmp_path / "o.png", "s", {"adc": image}, {}, affine=axis_affine(axes, (40, 40, 9))
    )
    assert "slices 4, 5, 6" in figure.caption
    picture = np.asarray(Image.open(figure.path).convert("L"))
    levels = [np.median(third[third > 40]) for third in np.array_split(picture, 3, axis=1)]
    assert levels == pytest.approx(image[3:6, 0, 0] / 2 * 255, abs=6)


@pytest.mark.parametrize("axes", ["RAS", "LAS", "LPS", "RPI", "ALS", "PRI", "SRA", "RSA", "ASL"])
def test_pictures_are_radiological_whatever_the_file_order(axes, tmp_path):
    """A lesion at the patient's left front must show top right on axial slices (and so on)."""
    size = (40, 40, 9)
    affine = axis_affine(axes, size)
    place = np.moveaxis(np.indices(size), 0, -1) @ affine[:3, :3].T + affine[:3, 3]
    slice_world = int(np.flatnonzero(affine[:3, 2])[0])
    bright = np.ones(size, bool)
    for world, sign in ((0, -1), (1, 1), (2, 1)):  # left, anterior, superior
        if world != slice_world:
            bright &= sign * place[..., world] > 5
    image = np.moveaxis(np.where(bright, 2.5, 0.5).astype(np.float32), 2, 0)
    path = tmp_path / "overlay.png"
    overlay_figure(path, "", {"adc": image}, {}, affine=affine)
    picture = np.asarray(Image.open(path).convert("L"))
    # The middle picture of three: bright pixels against its grey square.
    third = picture[:, picture.shape[1] // 3 : 2 * picture.shape[1] // 3]
    rows, columns = np.nonzero((third > 25) & (third < 90))
    high_rows, high_columns = np.nonzero((third > 190) & (third < 240))
    assert np.median(high_rows) < rows.mean()
    left_of_picture = slice_world == 0  # sagittal: anterior is on the left
    assert (np.median(high_columns) < columns.mean()) == left_of_picture
