"""Training: what a run folder holds, resuming, refusals."""

import contextlib
import csv
import json
import os
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest

from strokeseg_tf.config import PAPER_CODE, SMALL
from strokeseg_tf.engine.history import mean_dice, read_history
from strokeseg_tf.losses import build_loss
from strokeseg_tf.prediction.engines import Computing
from strokeseg_tf.runs import Run
from strokeseg_tf.training import fit
from strokeseg_tf.validation import validate
from tfrecord_tools.errors import InputError

TINY = SMALL.replace(
    model={"filters": [2, 3], "bottleneck": 3, "image_size": 32},
    training={"epochs": 3, "batch_size": 8, "threshold": None},
)

#: Half the graph to trace, where one head is enough.
UNIMODAL = TINY.replace(
    model={"variant": "unimodal", "modality": "dwi", "filters": [2, 3]},
    training={"epochs": 1, "batch_size": 4},
)


@pytest.fixture(scope="module")
def run(shards, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "undisturbed"
    fit(shards, folder, TINY, verbose=0)
    return Run(folder)


def weights_of(run):
    return keras.saving.load_model(run.model_file, compile=False).get_weights()


def last_state_of(run):
    """Weights, moments and averages after the last epoch, by name."""
    (checkpoint,) = run.checkpoints.iterdir()
    with np.load(checkpoint) as state:
        return dict(state)


def test_run_folder_holds_what_the_contract_names(run):
    files = (run.config_file, run.model_file, run.history_file, run.environment_file)
    for path in (*files, run.training_data_file, run.curves_file):
        assert path.is_file()
    assert {path.name for path in run.checkpoints.iterdir()} == {"epoch-00003.npz"}
    assert any(run.logs.rglob("events.out.tfevents.*"))
    assert run.read_config() == TINY


def test_history_has_a_row_an_epoch_and_the_named_columns(run):
    with open(run.history_file, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    named = [
        "epoch",
        "loss",
        "val_loss",
        "val_adc_dice",
        "val_dwi_dice",
        "learning_rate",
        "seconds",
    ]
    assert list(rows[0])[: len(named)] == named


def test_kept_weights_are_those_of_the_best_epoch(run, shards):
    from strokeseg_tf.loading import load_predictor

    best = max(read_history(run), key=mean_dice)
    exact = Computing(precision="float32")
    predictor = load_predictor(run.folder, threshold=0.5, computing=exact)  # As in the history.
    scores = validate(predictor, build_loss(TINY.loss), shards, "validation", "r1")
    for name, value in scores.items():
        assert value == pytest.approx(best[name], abs=1e-5), name


def test_the_threshold_that_is_kept_is_the_best_on_the_validation_studies(run, shards):
    from strokeseg_tf.loading import load_predictor

    chosen = json.loads(run.threshold_file.read_text())
    at = {float(threshold): dice for threshold, dice in chosen["dice"].items()}
    assert run.read_threshold() == chosen["threshold"] == load_predictor(run.folder).threshold
    assert at[chosen["threshold"]] == max(at.values())
    for threshold in (0.5, chosen["threshold"]):
        exact = Computing(precision="float32")
        predictor = load_predictor(run.folder, threshold=threshold, computing=exact)
        scores = validate(predictor, build_loss(TINY.loss), shards, "validation", "r1")
        assert at[threshold] == pytest.approx(mean_dice(scores))


def test_a_run_that_lost_only_its_threshold_gets_it_back_on_resuming(run, shards):
    before = run.threshold_file.read_text()
    run.threshold_file.unlink()
    fit(shards, run.folder, TINY, resume=True, verbose=0)
    assert run.threshold_file.read_text() == before


def test_a_fixed_threshold_is_left_alone(shards, tmp_path):
    fixed = Run(tmp_path / "fixed")
    fit(shards, fixed.folder, UNIMODAL.replace(training={"threshold": 0.3}), verbose=0)
    assert not fixed.threshold_file.exists()
    assert fixed.read_threshold() == 0.3


def test_the_same_seed_gives_the_same_run(shards, tmp_path):
    runs = [Run(tmp_path / name) for name in ("one", "other")]
    for run in runs:
        fit(shards, run.folder, UNIMODAL, verbose=0)
    for one, other in zip(*map(weights_of, runs), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def start_training(shards, folder, config, **options):
    """`fit` in a process of its own."""
    program = (
        "import json, sys; from strokeseg_tf.config import Config; "
        "from strokeseg_tf.training import fit; "
        "fit(*sys.argv[1:3], Config().replace(**json.loads(sys.argv[3])), verbose=0, "
        "**json.loads(sys.argv[4]))"
    )
    arguments = [str(shards), str(folder), json.dumps(config.to_dict()), json.dumps(options)]
    return subprocess.Popen([sys.executable, "-c", program, *arguments])


def wait_for_history(run):
    deadline = time.monotonic() + 120
    while not run.history_file.is_file() and time.monotonic() < deadline:
        time.sleep(0.02)


@pytest.mark.slow
def test_a_killed_run_resumes_as_if_undisturbed(run, shards, tmp_path):
    """Kill -9 after the first epoch; to the bit, with averaged weights, clipping and dropout."""
    config = UNIMODAL.replace(
        model={"dropout": 0.3, "norm_momentum": 0.5},
        optimiser={"ema_momentum": 0.9},
        augmentation=PAPER_CODE.to_dict()["augmentation"],
        training={"epochs": 4},
    )
    # Each in a fresh process: how many threads TensorFlow has moves the last bits.
    whole, killed = Run(tmp_path / "whole"), Run(tmp_path / "killed")
    assert start_training(shards, whole.folder, config).wait() == 0
    process = start_training(shards, killed.folder, config)
    wait_for_history(killed)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert 1 <= len(read_history(killed)) < 4

    assert start_training(shards, killed.folder, config, resume=True).wait() == 0
    for one, other in zip(read_history(whole), read_history(killed), strict=True):
        timing = {"seconds", "slice_pairs_per_second"}
        assert {k: v for k, v in one.items() if k not in timing} == {
            k: v for k, v in other.items() if k not in timing
        }
    states = [last_state_of(run) for run in (whole, killed)]
    assert states[0].keys() == states[1].keys()
    for name, one in states[0].items():
        np.testing.assert_array_equal(states[1][name], one, err_msg=name)


@pytest.mark.slow
def test_a_full_disk_is_one_sentence_and_loses_nothing(shards, small_disk):
    place, remount = small_disk
    remount("size=16m")
    run, settings = Run(place / "run"), place / "settings.json"
    settings.write_text(json.dumps(TINY.replace(training={"epochs": 60}).to_dict()))
    line = ["fit", str(shards), "--run", str(run.folder), "--config", str(settings)]
    command = [sys.executable, "-m", "strokeseg_tf.cli", *line]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    wait_for_history(run)
    with contextlib.suppress(OSError), open(place / "filler", "wb") as filler:
        while True:
            filler.write(bytes(4096))
            filler.flush()
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 2, errors
    last = errors.splitlines()[-1]
    assert "No space left on device" in last and "--resume" in last, errors
    before = read_history(run)
    assert 1 <= len(before) < 60
    with np.load(run.checkpoints / f"epoch-{len(before):05d}.npz") as state:
        assert all(np.isfinite(state[name]).all() for name in state)
    assert np.isfinite(weights_of(run)[0]).all()
    (place / "filler").unlink()
    assert subprocess.run([*command, "--resume"]).returncode == 0
    assert read_history(run)[: len(before)] == before and len(read_history(run)) == 60


def test_resuming_with_other_settings_names_the_difference(run, shards):
    with pytest.raises(InputError, match="training.batch_size 8 then, 4 now"):
        fit(shards, run.folder, TINY.replace(training={"batch_size": 4}), resume=True)


def test_resuming_on_other_shards_is_refused(run, cohort, tmp_path):
    from tfrecord_tools.conversion import convert

    convert(cohort, tmp_path / "others", shares={"train": 0.5, "validation": 0.5})
    with pytest.raises(InputError, match="started on other shards"):
        fit(tmp_path / "others", run.folder, TINY, resume=True)


class StopsInThirdEpoch(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            raise KeyboardInterrupt


def test_whatever_ends_a_training_its_finished_epochs_are_kept(shards, tmp_path):
    """Also those that were too short to be written each."""
    config, stopped = UNIMODAL.replace(training={"epochs": 3}), Run(tmp_path / "stopped")
    with pytest.raises(KeyboardInterrupt):
        fit(shards, stopped.folder, config, verbose=False, callbacks=[StopsInThirdEpoch()])
    before = read_history(stopped)
    assert len(before) == 2
    fit(shards, stopped.folder, config, verbose=False, resume=True)
    assert read_history(stopped)[:2] == before and len(read_history(stopped)) == 3


def test_a_finished_run_is_not_overwritten_unasked(run, shards):
    with pytest.raises(InputError, match="--overwrite"):
        fit(shards, run.folder, TINY)
    assert run.model_file.is_file()


def test_a_loss_that_is_no_number_stops_with_step_and_rate(shards, tmp_path):
    config = UNIMODAL.replace(optimiser={"learning_rate": 1e30, "warmup_share": 0.0})
    told = r"epoch \d+, step \d+, at a learning rate of .*, on slices of phantom-\d+"
    with pytest.raises(InputError, match=told):
        fit(shards, tmp_path / "nan", config, verbose=0)


@pytest.mark.slow
def test_training_without_a_validation_split_chooses_on_the_training_studies(cohort, tmp_path):
    from tfrecord_tools.conversion import convert

    convert(cohort, tmp_path / "shards", shares={"train": 1.0})
    config = TINY.replace(model={"variant": "unimodal", "modality": "dwi"}, training={"epochs": 1})
    (row,) = fit(tmp_path / "shards", tmp_path / "run", config, verbose=0)
    assert "val_dwi_dice" in row and "val_adc_dice" not in row
    assert {"dwi_dice", "dwi_precision", "dwi_sensitivity"} <= set(row)


def test_an_unknown_rater_is_refused_before_anything_is_written(shards, tmp_path):
    with pytest.raises(InputError, match="rater 'r9'"):
        fit(shards, tmp_path / "run", TINY.replace(training={"rater": "r9"}))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("precision", ["bfloat16", pytest.param("float16", marks=pytest.mark.slow)])
def test_half_precision_trains_with_weights_in_float32(shards, tmp_path, precision):
    config = UNIMODAL.replace(training={"precision": precision})
    (row,) = fit(shards, tmp_path / "run", config, verbose=0)
    assert np.isfinite(row["loss"])
    assert all(w.dtype == np.float32 for w in weights_of(Run(tmp_path / "run")))
    assert keras.config.dtype_policy().name == "float32"
