"""`predict`: what stands in OUT, going on, ensembles, DICOM, and every way to be stopped."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from strokeseg_tf.cli import main
from strokeseg_tf.config import SMALL
from strokeseg_tf.models.variants import build_model
from strokeseg_tf.runs import Run
from tfrecord_tools.layouts import find_studies


def make_run(folder, seed, **model):
    """A run with untrained weights and a threshold that they cross: what is marked is noise."""
    import keras

    keras.utils.set_random_seed(seed)
    config = SMALL.replace(
        model={"filters": [2, 3], "bottleneck": 3, "image_size": 32, "prior": 0.5} | model,
        training={"threshold": 0.49},
    )
    folder.mkdir(parents=True)
    Run(folder).write_config(config)
    build_model(config.model).save(Run(folder).model_file)
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    home = tmp_path_factory.mktemp("runs")
    return [make_run(home / f"fold{seed}", seed) for seed in range(3)]


@pytest.fixture(scope="module")
def few(cohort, tmp_path_factory):
    """Two studies of the cohort."""
    home = tmp_path_factory.mktemp("few") / "few"
    for files in find_studies(cohort)[:2]:
        shutil.copytree(files.images["adc"].parents[1], home / files.study)
    return home


def predict(*words):
    return main(["predict", *map(str, words)])


def account(out):
    return json.loads((out / "predictions.json").read_text())


def image(path):
    return nibabel.load(path).get_fdata(dtype=np.float32)


@pytest.fixture(scope="module")
def alone(runs, few, tmp_path_factory):
    """What each run predicts by itself."""
    home = tmp_path_factory.mktemp("alone")
    for run in runs:
        line = [run, few, "-o", home / run.name, "--no-figures", "--probabilities"]
        assert predict(*line) == 0
    return home


def test_every_file_of_a_study_is_named_and_the_picture_shows_all_slices(runs, few, tmp_path):
    out = tmp_path / "out"
    assert predict(runs[0], few, "-o", out, "--probabilities") == 0
    content = account(out)
    assert content["finished"] and len(content["studies"]) == 2
    named = {name for entry in content["studies"].values() for name in entry["files"]}
    assert {p.name for p in out.iterdir()} == named | {"predictions.json"}
    for study in content["studies"]:
        with Image.open(out / f"{study}.png") as picture:
            assert picture.size[0] > 500 and len(picture.getcolors(1 << 24)) > 50


def test_without_figures_there_are_images_alone(runs, alone):
    assert {"".join(p.suffixes) for p in (alone / runs[0].name).iterdir()} == {".nii.gz", ".json"}


@pytest.mark.slow
def test_an_ensemble_is_the_mean_and_its_uncertainty_the_spread(runs, alone, few, tmp_path):
    out = tmp_path / "all"
    several = ["--ensemble", *runs[1:], "--uncertainty"]
    line = [runs[0], few, "-o", out, "--no-figures", "--probabilities"]
    assert predict(*line, *several) == 0
    assert account(out)["model"] == " + ".join(map(str, runs))
    for path in out.glob("*_probability.nii.gz"):
        single = np.stack([image(alone / run.name / path.name) for run in runs])
        np.testing.assert_allclose(image(path), single.mean(axis=0), atol=1e-6)
        spread = image(Path(str(path).replace("probability", "uncertainty")))
        np.testing.assert_allclose(spread, single.std(axis=0), atol=1e-6)


@pytest.mark.slow
def test_a_vote_marks_what_two_of_three_mark(runs, alone, few, tmp_path):
    out = tmp_path / "all"
    assert predict(runs[0], few, "-o", out, "--no-figures", "--vote", "--ensemble", *runs[1:]) == 0
    for path in out.glob("*_mask.nii.gz"):
        votes = sum(image(alone / run.name / path.name) for run in runs)
        np.testing.assert_array_equal(image(path), votes >= 2)


def test_unimodal_models_together_predict_both_modalities(few, tmp_path):
    for modality in ("adc", "dwi"):
        make_run(tmp_path / modality, 0, variant="unimodal", modality=modality)
    out = tmp_path / "out"
    line = [tmp_path / "adc", few, "-o", out, "--no-figures", "--ensemble", tmp_path / "dwi"]
    assert predict(*line) == 0
    for entry in account(out)["studies"].values():
        assert set(entry["masks"]) == {"adc", "dwi"}


def test_small_lesions_are_left_out(runs, alone, few, tmp_path):
    out = tmp_path / "large"
    assert predict(runs[0], few, "-o", out, "--no-figures", "--min-lesion-ml", 0.5) == 0
    import cc3d

    seen = 0
    for path in out.glob("*_mask.nii.gz"):
        before, after = (image(folder / path.name) > 0 for folder in (alone / runs[0].name, out))
        voxel_ml = abs(np.linalg.det(nibabel.load(path).affine[:3, :3])) / 1000
        labels = cc3d.connected_components(before, connectivity=26)
        sizes = np.bincount(labels.ravel())
        wanted = np.isin(labels, [i for i in range(1, len(sizes)) if sizes[i] * voxel_ml >= 0.5])
        np.testing.assert_array_equal(after, wanted)
        seen += (before != after).sum()
    assert seen  # Something was small.


@pytest.fixture
def broken(few, tmp_path):
    """Two studies, of which the second cannot be read."""
    home = tmp_path / "cohort"
    shutil.copytree(few, home)
    path = sorted(home.rglob("DWI.nii.gz"))[1]
    whole = path.read_bytes()
    path.write_bytes(whole[:300])
    return home, path, whole


def test_a_cohort_goes_on_past_a_bad_study_and_resumes_when_it_is_mended(
    runs, broken, tmp_path, capsys
):
    home, path, whole = broken
    out = tmp_path / "out"
    assert predict(runs[0], home, "-o", out) == 2
    assert "1 of 2 studies failed, the others are in" in capsys.readouterr().err
    (done,) = account(out)["studies"]
    assert len(account(out)["failed"]) == 1
    before = {p.name: p.stat().st_mtime_ns for p in out.glob(f"{done}*")}
    path.write_bytes(whole)
    assert predict(runs[0], home, "-o", out) == 2
    assert "--resume" in capsys.readouterr().err
    assert predict(runs[0], home, "-o", out, "--resume") == 0
    assert len(account(out)["studies"]) == 2 and not account(out)["failed"]
    assert {p.name: p.stat().st_mtime_ns for p in out.glob(f"{done}*")} == before
    assert predict(runs[1], home, "-o", out, "--resume") == 2
    assert "was predicted with other settings (model" in capsys.readouterr().err


def test_an_earlier_output_stays_until_there_is_a_better_one(runs, broken, tmp_path):
    home, path, _ = broken
    out = tmp_path / "out"
    assert predict(runs[0], path.parents[1].parent, "-o", out) == 2
    before = (out / "predictions.json").read_bytes()
    assert predict(runs[0], path.parents[1], "-o", out, "--overwrite") == 2
    assert (out / "predictions.json").read_bytes() == before
    assert predict(runs[1], home, "-o", out, "--overwrite") == 2
    assert account(out)["model"] == str(runs[1])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cohort", "out"]


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGKILL"])
def test_what_was_finished_stays_when_it_is_stopped(name, runs, cohort, tmp_path):
    table = tmp_path / "studies.csv"
    study = find_studies(cohort)[0].images
    rows = [f"s{i:03d},{study['adc']},{study['dwi']}" for i in range(300)]
    table.write_text("\n".join(["study,adc,dwi", *rows]))
    out = tmp_path / "out"
    program = "import sys; from strokeseg_tf.cli import main; sys.exit(main())"
    line = [sys.executable, "-c", program, "predict", runs[0], table, "-o", out]
    with subprocess.Popen([*map(str, line)], stderr=subprocess.PIPE, text=True) as process:
        wait_for(lambda: out.is_dir() and len(account(out)["studies"]) >= 3)
        process.send_signal(getattr(signal, name))
        errors = process.communicate(timeout=60)[1]
    content = account(out)
    assert not content["finished"] and 3 <= len(content["studies"]) < 300
    for entry in content["studies"].values():
        for file in entry["files"]:
            if file.endswith(".nii.gz"):
                nibabel.load(out / file).get_fdata()
    if name != "SIGKILL":
        assert process.returncode == 130 and "what was finished is kept" in errors
        assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "studies.csv"]
    table.write_text("\n".join(["study,adc,dwi", *rows[:40]]))
    assert predict(runs[0], table, "-o", out, "--resume") == 0
    assert account(out)["finished"] and len(account(out)["studies"]) >= 40
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_two_processes_do_not_write_one_folder(runs, few, tmp_path, capsys):
    from tfrecord_tools.growing_folder import growing_folder

    with growing_folder(tmp_path / "out", marker="predictions.json"):
        assert predict(runs[0], few, "-o", tmp_path / "out") == 2
    assert "is being written by another process" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--vote"], "--vote needs three models"),
        (["--uncertainty"], "--uncertainty is the spread of several predictions"),
        (["--min-lesion-ml", "-1"], "--min-lesion-ml must be a volume"),
        (["--min-lesion-ml", "nan"], "--min-lesion-ml must be a volume"),
        (["--dicom-seg"], "--dicom-seg refers to the DICOM"),
        (["--ensemble", "nowhere"], "nowhere does not exist"),
        (["--threshold", "nan"], "--threshold must lie between 0 and 1"),
    ],
)
def test_options_that_make_no_sense_are_one_line(words, told, runs, few, tmp_path, capsys):
    assert predict(runs[0], few, "-o", tmp_path / "out", *words) == 2
    errors = capsys.readouterr().err
    assert told in errors and errors.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_the_command_leaves_what_it_does_not_need_unimported(runs, few, tmp_path):
    program = f"""
import sys
from strokeseg_tf.cli import main
assert main(["predict", {str(runs[0])!r}, {str(few)!r}, "-o", {str(tmp_path / "out")!r}]) == 0
needless = "sklearn matplotlib pandas albumentations keras_tuner tensorboard cv2"
print([name for name in needless.split() if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_alarms_are_told_on_standard_error_and_kept(runs, few, tmp_path, capsys):
    run = make_run(tmp_path / "run", 0)
    training = {"studies": 3, "features": {"slice distance (mm)": [1.0, 1.2]}}
    Run(run).write_training_data(training)
    line = [run, few, "-o", tmp_path / "out", "--threshold", "0.999", "--json"]
    assert predict(*line) == 0
    captured = capsys.readouterr()
    for words in ("nothing is marked on ADC: ", "unlike the training studies in slice distance"):
        assert words in captured.err
    for entry in json.loads(captured.out)["studies"].values():
        codes = [alarm["code"] for alarm in entry["alarms"]]
        assert codes == ["empty", "empty", "unlike training"]
