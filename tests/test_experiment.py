"""`reproduce`: all variants in one report, and an interrupted experiment goes on where it was."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from strokeseg_tf.cli import main
from strokeseg_tf.config import SMALL
from strokeseg_tf.engine.history import read_history
from strokeseg_tf.experiment import EXPERIMENT, VARIANTS, evaluate_variants, train_variants
from strokeseg_tf.runs import Run
from tfrecord_tools.conversion import convert
from tfrecord_tools.errors import InputError

TINY = {
    "model": {"filters": [2, 3], "bottleneck": 3, "image_size": 16},
    "training": {"epochs": 2, "batch_size": 8},
}


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(TINY), encoding="utf-8")
    return path


def histories(out):
    """What the runs have learnt, without the time it took."""
    timing = {"seconds", "slice_pairs_per_second"}
    return {
        name: [
            {column: value for column, value in row.items() if column not in timing}
            for row in read_history(Run(out / "runs" / name))
        ]
        for name in VARIANTS
    }


@pytest.mark.slow
def test_a_killed_experiment_goes_on_and_ends_as_an_undisturbed_one(shards, config, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    line = ["reproduce", str(shards), "--config", str(config), "--seed", "3", "-o"]
    # Each in a fresh process: how many threads TensorFlow has moves the last bits.
    program = [sys.executable, "-m", "strokeseg_tf.cli", *line]
    subprocess.run([*program, str(whole)], check=True)
    process = subprocess.Popen([*program, str(killed)], stderr=subprocess.DEVNULL)
    second = killed / "runs" / "unimodal_dwi" / "history.csv"
    while not second.is_file():
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (killed / "evaluation").exists()
    subprocess.run([*program, str(killed)], check=True)
    assert histories(killed) == histories(whole)
    scores = [(out / "evaluation" / "scores.csv").read_bytes() for out in (whole, killed)]
    assert scores[0] == scores[1]
    table = (whole / "evaluation" / "table1.md").read_text(encoding="utf-8")
    assert all(f"| {name} |" in table for name in VARIANTS)
    before = (whole / "evaluation" / "report.html").stat().st_mtime_ns
    assert main([*line, str(whole)]) == 0  # Finished: nothing is done again.
    assert (whole / "evaluation" / "report.html").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--epochs", "3"], "other settings"),
        (["--convention", "paper"], "other convention"),
        (["--split", "validation"], "other split"),
    ],
)
def test_an_experiment_is_not_gone_on_with_under_other_settings(
    shards, config, tmp_path, capsys, more, told
):
    out = tmp_path / "experiment"
    small = SMALL.replace(**TINY)
    with pytest.raises(KeyboardInterrupt):
        train_variants(shards, out, small, on_run=interrupt)
    line = ["reproduce", str(shards), "--config", str(config), "-o", str(out), *more]
    assert main(line) == 2
    error = capsys.readouterr().err
    assert told in error and "--overwrite" in error


def interrupt(number, count, name):
    raise KeyboardInterrupt


def test_what_is_no_experiment_is_neither_replaced_nor_evaluated(shards, tmp_path):
    out = tmp_path / "precious"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(InputError, match="exists"):
        train_variants(shards, out, SMALL)
    with pytest.raises(InputError, match="is not replaced"):
        train_variants(shards, out, SMALL, overwrite=True)
    with pytest.raises(InputError, match="no experiment"):
        evaluate_variants(shards, out)
    assert [path.name for path in out.iterdir()] == ["thesis.txt"]


def test_an_experiment_is_evaluated_on_its_own_data_only(shards, cohort, tmp_path):
    out = tmp_path / "experiment"
    with pytest.raises(KeyboardInterrupt):
        train_variants(shards, out, SMALL, on_run=interrupt)
    convert(cohort, tmp_path / "other", shares={"train": 0.5, "test": 0.5}, seed=1)
    with pytest.raises(InputError, match="other data"):
        evaluate_variants(tmp_path / "other", out)


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_a_damaged_plan_is_told(shards, tmp_path, text):
    (tmp_path / EXPERIMENT).write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match="damaged"):
        train_variants(shards, tmp_path, SMALL)


def test_a_split_without_masks_is_refused_before_anything_is_trained(shards, tmp_path):
    with pytest.raises(InputError, match="no reference"):
        train_variants(shards, tmp_path / "out", SMALL, split="holdout")
    assert not (tmp_path / "out").exists()
