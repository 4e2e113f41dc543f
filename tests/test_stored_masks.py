"""Evaluation of masks on disk: those of `predict`, or of any other program."""

import csv
import json
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest

from strokeseg_tf.cli import main
from strokeseg_tf.cohort import RESULT
from tfrecord_tools.layouts import find_studies
from tfrecord_tools.shards import read_dataset_info


@pytest.fixture
def stored(cohort, tmp_path) -> Path:
    """The masks of R1, as if they were predictions."""
    folder = tmp_path / "stored"
    folder.mkdir()
    (folder / RESULT).write_text(json.dumps({"threshold": 0.4, "model": "R1"}), encoding="utf-8")
    for files in find_studies(cohort):
        for modality in ("adc", "dwi"):
            name = f"{files.study}_{modality}_mask.nii.gz"
            shutil.copyfile(files.masks["r1", modality], folder / name)
    return folder


def evaluate(stored, shards, out, *more):
    code = main(["evaluate", str(stored), "--data", str(shards), "-o", str(out), *more])
    if code:
        return code, None
    with open(out / "scores.csv", newline="", encoding="utf-8") as file:
        return 0, list(csv.DictReader(file))


def test_a_raters_own_masks_score_1_against_that_rater(stored, shards, tmp_path):
    code, rows = evaluate(stored, shards, tmp_path / "evaluation")
    assert code == 0
    studies = read_dataset_info(shards).studies_of("test")
    own = [row for row in rows if row["rater"] == "r1"]
    assert len(own) == 2 * len(studies) and {row["variant"] for row in own} == {"stored"}
    assert {float(row["dice"]) for row in own} == {1.0}
    summary = json.loads((tmp_path / "evaluation" / "summary.json").read_text(encoding="utf-8"))
    assert summary["probabilities"] == []


def test_a_turned_mask_is_turned_back_and_a_missing_one_gives_no_row(stored, shards, tmp_path):
    first, second = read_dataset_info(shards).studies_of("test")
    path = stored / f"{first}_dwi_mask.nii.gz"
    image = nibabel.load(path)
    turned = image.as_reoriented(np.array([[1, -1], [2, 1], [0, -1]]))
    nibabel.save(nibabel.Nifti1Image(turned.get_fdata().astype("u1"), turned.affine), path)
    (stored / f"{second}_adc_mask.nii.gz").unlink()
    _, rows = evaluate(stored, shards, tmp_path / "evaluation")
    dice = {(r["study"], r["modality"]): float(r["dice"]) for r in rows if r["rater"] == "r1"}
    assert dice == {(first, "adc"): 1.0, (first, "dwi"): 1.0, (second, "dwi"): 1.0}


def test_the_consensus_of_two_equal_raters_is_their_mask(stored, shards, tmp_path):
    _, rows = evaluate(stored, shards, tmp_path / "evaluation", "--consensus", "majority")
    assert {row["rater"] for row in rows} == {"r1", "r2", "majority"}
    for row in rows:
        if row["rater"] == "majority":  # Of two raters it is what both drew: a part of R1's.
            assert float(row["sensitivity"]) == 1.0
            assert float(row["reference_volume_ml"]) <= float(row["predicted_volume_ml"])


@pytest.mark.parametrize("text", ["{", "{}", '{"threshold": "high"}', "[]"])
def test_a_damaged_folder_is_told_in_one_line(stored, shards, tmp_path, capsys, text):
    (stored / RESULT).write_text(text, encoding="utf-8")
    code, _ = evaluate(stored, shards, tmp_path / "evaluation")
    error = capsys.readouterr().err.strip()
    assert code == 2 and error.count("\n") == 0 and "predictions.json is damaged" in error
    assert not (tmp_path / "evaluation").exists()


def test_masks_of_other_studies_are_no_evaluation(stored, shards, tmp_path, capsys):
    for path in stored.glob("*.nii.gz"):
        path.unlink()
    code, _ = evaluate(stored, shards, tmp_path / "evaluation")
    assert code == 2 and "no case of 2 has" in capsys.readouterr().err
