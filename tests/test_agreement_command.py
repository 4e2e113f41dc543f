"""The command `agreement`: every kind of source, the files it writes, and its one-line errors."""

import csv
import json
import re
import shutil

import nibabel
import numpy as np
import pytest
from PIL import Image

from strokeseg_tf.cli import main
from strokeseg_tf.evaluation.agreement import study_agreement, summarise_agreement
from strokeseg_tf.evaluation.agreement_cohort import cohort_agreement
from strokeseg_tf.evaluation.agreement_figure import agreement_figure, volume_figure
from strokeseg_tf.evaluation.agreement_report import (
    COLUMNS,
    RESULT,
    agreement_markdown,
    write_agreement,
)
from tfrecord_tools.errors import InputError
from tfrecord_tools.layouts import find_studies
from tfrecord_tools.study import read_study

FILES = {"agreement.csv", "agreement.json", "agreement.md", "figures"}
HOSTILE = "senior|reader *1* $x_{$ <b>"


@pytest.fixture(scope="module")
def agreement(cohort, tmp_path_factory):
    out = tmp_path_factory.mktemp("work") / "agreement"
    seen = []
    result = write_agreement(cohort, out, on_study=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 8) for done in range(1, 9)]
    return out, result


def write_table(folder, rows):
    """A CSV table with images and masks of two slices; a row: study, group, split and masks."""
    folder.mkdir(parents=True, exist_ok=True)
    columns = ["study", "dwi", "mask_adc_r1", "mask_dwi_r1", "mask_dwi_r2", "group", "split"]
    with open(folder / "studies.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        for row in rows:
            save(folder / f"{row['study']}.nii.gz", np.indices((6, 5, 4)).sum(axis=0) + 1.0)
            writer.writerow({"dwi": f"{row['study']}.nii.gz", **row})
    return folder / "studies.csv"


def save(path, voxels):
    nibabel.save(nibabel.Nifti1Image(voxels.astype(np.float32), np.diag([-1.0, 1, 5, 1])), path)


def mask(folder, name, voxels):
    folder.mkdir(parents=True, exist_ok=True)
    volume = np.zeros((6, 5, 4))
    volume.ravel()[:voxels] = 1
    save(folder / name, volume)
    return name


@pytest.fixture
def table(tmp_path):
    """Two studies with two raters, one with one, one with none."""
    folder = tmp_path / "table"
    big, small = mask(folder, "big.nii.gz", 30), mask(folder, "small.nii.gz", 10)
    return write_table(
        folder,
        [
            {"study": "two", "mask_dwi_r1": big, "mask_dwi_r2": small, "split": "test"},
            {"study": "same", "mask_dwi_r1": big, "mask_dwi_r2": small, "split": "train"},
            {"study": "one", "mask_dwi_r1": big, "split": "train"},
            {"study": "none", "split": "test"},
        ],
    )


def test_the_folder_is_complete(agreement):
    out, result = agreement
    assert {path.name for path in out.iterdir()} == FILES
    figures = {path.name for path in (out / "figures").iterdir()}
    assert figures == {f"{name}.{kind}" for name in ("agreement", "volumes") for kind in PICTURES}
    assert json.loads((out / RESULT).read_text()) == result
    assert [path.name for path in out.parent.iterdir()] == ["agreement"]


PICTURES = ("png", "svg")


def test_the_rows_are_those_of_the_masks_on_disk(agreement, cohort):
    expected = []
    for files in find_studies(cohort):
        study = read_study(files)
        expected += study_agreement(files.study, study.group, study.masks, study.grid.spacing_mm)
    result = agreement[1]
    assert result["agreement"] == expected and len(expected) == 8 * 4
    assert result["agreement_summary"] == summarise_agreement(expected)
    assert (result["studies"], result["controls"], result["phantom"]) == (8, 1, True)


def test_the_table_reads_back_to_the_last_bit(agreement):
    out, result = agreement
    with open(out / "agreement.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS and len(rows) == len(result["agreement"])
    for read, row in zip(rows, result["agreement"], strict=True):
        assert [read["first"], read["second"]] == row["pair"]
        assert (read["modality"] or None, read["rater"] or None) == (row["modality"], row["rater"])
        for name in ("kappa", "dice", "first_volume_ml", "second_volume_ml"):
            assert float(read[name]) == row[name]


def test_shards_say_the_same_as_the_studies_they_were_made_of(agreement, shards):
    found = cohort_agreement(shards)
    by_study = sorted(found["agreement"], key=lambda row: row["study"])
    expected = sorted(agreement[1]["agreement"], key=lambda row: row["study"])
    assert by_study == expected


def test_one_split_of_the_shards(shards):
    found = cohort_agreement(shards, split="test")
    assert found["studies"] == 2 and found["split"] == "test"


def test_studies_that_cannot_be_compared_are_left_out_with_the_reason(table, tmp_path):
    found = write_agreement(table, tmp_path / "out")
    assert found["left_out"] == {"one": "only r1 on DWI", "none": "no mask"}
    assert [row["dice"] for row in found["agreement"]] == [0.5, 0.5]
    text = (tmp_path / "out" / "agreement.md").read_text()
    assert "- one: only r1 on DWI" in text and "phantom" not in text
    chosen = cohort_agreement(table, split="test")
    assert [row["study"] for row in chosen["agreement"]] == ["two"]


def test_one_file_for_both_modalities_is_not_compared_with_itself(tmp_path):
    shared, other = mask(tmp_path / "t", "m.nii.gz", 30), mask(tmp_path / "t", "o.nii.gz", 20)
    row = {"study": "a", "mask_adc_r1": shared, "mask_dwi_r1": shared}
    source = write_table(tmp_path / "t", [row])
    with pytest.raises(InputError, match="1 with one mask of r1 for both modalities"):
        cohort_agreement(source)
    source = write_table(tmp_path / "t", [row, {**row, "study": "b", "mask_dwi_r2": other}])
    found = cohort_agreement(source)
    assert found["one_mask_for_both"] == ["r1"]
    assert found["left_out"] == {"a": "one mask of r1 for both modalities"}
    assert [(row["study"], row["kind"]) for row in found["agreement"]] == [("b", "raters")]


@pytest.mark.parametrize("method", ["majority", "staple"])
def test_a_consensus_is_compared_with_each_rater(table, method):
    found = cohort_agreement(table, consensus=method)
    pairs = [entry["pair"] for entry in found["agreement_summary"]]
    assert pairs == [["r1", "r2"], ["r1", method], ["r2", method]]
    assert f"`{method}` is the consensus" in agreement_markdown(found)


def test_a_rater_with_the_name_of_the_consensus_is_refused(table):
    text = table.read_text().replace("mask_dwi_r2", "mask_dwi_staple")
    table.write_text(text)
    with pytest.raises(InputError, match="study same: no rater may be called 'staple'"):
        cohort_agreement(table, consensus="staple")
    assert cohort_agreement(table)["agreement"][0]["pair"] == ["r1", "staple"]


def test_a_bad_study_stops_it_or_is_left_out(table, tmp_path):
    (table.parent / "two.nii.gz").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"1 of 4 studies cannot be read.*two: .*two\.nii\.gz"):
        write_agreement(table, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    found = cohort_agreement(table, skip_bad=True)
    assert found["studies"] == 1 and "two.nii.gz" in found["left_out"]["two"]


def test_it_prints_a_table_of_80_columns_and_where_the_rest_lies(table, tmp_path, capsys):
    assert main(["agreement", str(table), "-o", str(tmp_path / "out")]) == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert max(map(len, lines[:-1])) <= 80 and lines[-1] == f"{tmp_path / 'out'}/agreement.md"
    counts = [line.split()[-6:] for line in lines if line.startswith("R1 and R2 on DWI")][1]
    assert sum(map(int, counts)) == 2


def test_json_is_one_document_and_what_is_left_out_a_remark(table, tmp_path, capsys):
    assert main(["agreement", str(table), "-o", str(tmp_path / "out"), "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out) == json.loads((tmp_path / "out" / RESULT).read_text())
    assert captured.err.splitlines() == [
        "strokeseg-tf: left out 1 study (no mask): none",
        "strokeseg-tf: left out 1 study (only r1 on DWI): one",
    ]


@pytest.mark.parametrize(
    "arguments",
    [
        ["nowhere", "-o", "out"],
        [".", "-o", "out"],
        ["COHORT", "-o", "out", "--split", "test"],
        ["SHARDS", "-o", "out", "--split", "unheard-of"],
        ["COHORT", "-o", "out", "--layout", "unheard-of"],
        ["COHORT", "-o", "out", "--consensus", "unheard-of"],
        ["COHORT"],
    ],
    ids=" ".join,
)
def test_a_mistake_is_one_line_and_exit_2(arguments, cohort, shards, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    places = {"COHORT": str(cohort), "SHARDS": str(shards)}
    try:
        status = main(["agreement", *(places.get(word, word) for word in arguments)])
    except SystemExit as end:
        status = end.code
    captured = capsys.readouterr()
    assert status == 2 and captured.out == ""
    assert re.fullmatch(r"strokeseg-tf: error: .+\n", captured.err), captured.err
    assert list(tmp_path.iterdir()) == []


def test_unfinished_shards_are_refused_with_that_word(shards, tmp_path):
    copy = tmp_path / "shards"
    shutil.copytree(shards, copy)
    (copy / "dataset_info.json").unlink()
    with pytest.raises(InputError, match="unfinished"):
        cohort_agreement(copy)


def test_only_an_earlier_agreement_is_replaced(table, tmp_path):
    out = tmp_path / "out"
    write_agreement(table, out)
    with pytest.raises(InputError, match="--overwrite"):
        write_agreement(table, out)
    write_agreement(table, out, split="test", overwrite=True)
    assert json.loads((out / RESULT).read_text())["studies"] == 1
    with pytest.raises(InputError, match="no agreement.json"):
        write_agreement(table, table.parent, overwrite=True)


def test_the_same_studies_give_the_same_bytes(table, tmp_path):
    for name in ("a", "b"):
        write_agreement(table, tmp_path / name)
    for path in (tmp_path / "a").rglob("*.*"):
        again = tmp_path / "b" / path.relative_to(tmp_path / "a")
        assert path.read_bytes() == again.read_bytes(), path.name


def blobs(kappas_below_zero=False, raters=("r1", "r2"), groups=("stroke", "control")):
    """Rows of small masks; on request with raters who disagree more than by chance."""
    rng = np.random.default_rng(0)
    rows = []
    for number, group in enumerate(groups):
        masks = {
            (rater, modality): rng.random((3, 8, 8)) < 0.4
            for rater in raters
            for modality in ("adc", "dwi")
        }
        if kappas_below_zero:
            first, second, *_ = raters
            masks[second, "adc"] = ~masks[first, "adc"]
        rows += study_agreement(f"s{number}", group, masks, (5, 1, 1))
    return rows


@pytest.mark.parametrize(
    "rows",
    [
        blobs(raters=(HOSTILE, "r2", "r3"))[:3],
        blobs(kappas_below_zero=True),
        blobs(groups=("control",)),
        blobs(groups=("stroke",), raters=("r1",)),
        blobs(groups=("stroke",) * 40)[::4],
    ],
    ids=["three raters", "poor", "controls alone", "one rater, one study", "many studies"],
)
def test_pictures_of_any_cohort_are_drawn_with_words_for_them(rows, tmp_path):
    summary = summarise_agreement(rows)
    for draw in (agreement_figure, volume_figure):
        figure = draw(tmp_path / "picture.png", rows, summary)
        with Image.open(figure.path) as picture:
            assert picture.width > 400 and len(set(picture.convert("L").getdata())) > 10
        svg = (tmp_path / "picture.svg").read_text(encoding="utf-8")
        for entry in summary:
            assert entry["title"] in figure.alt
            assert entry["title"][:12] in svg


def test_the_picture_states_the_shares_of_the_summary(agreement):
    out, result = agreement
    svg = (out / "figures" / "agreement.svg").read_text(encoding="utf-8")
    for entry in result["agreement_summary"]:
        assert f"{entry['studies']} stroke studies, κ {entry['kappa']['mean']:.2f}" in svg
        for count in entry["bands"].values():
            assert f">{100 * count / entry['studies']:.0f} %<" in svg.replace("\n", "").replace(
                "> ", ">"
            )


def test_names_cannot_break_the_markdown(tmp_path):
    rows = blobs(raters=(HOSTILE, "r2"))
    result = {"agreement_summary": summarise_agreement(rows), "left_out": {"a|b": "no mask"}}
    result |= {"studies": 2, "controls": 1, "phantom": False, "one_mask_for_both": []}
    lines = agreement_markdown(result | {"consensus": None, "note": ""}).splitlines()
    cells = [len(re.findall(r"(?<!\\)\|", line)) for line in lines if HOSTILE[:6] in line]
    titles = [len(re.findall(r"\|", line)) for line in lines if line.startswith("| Comparison")]
    assert set(cells) == set(titles) and "- a\\|b: no mask" in lines
