"""The search: trials are runs, what fails is recorded, the winner is one that `fit` takes."""

import contextlib
import csv
import gc
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import weakref
from pathlib import Path

import pytest

from strokeseg_tf.cli import main
from strokeseg_tf.config import SMALL, read_config
from strokeseg_tf.data_cache import DataCache
from strokeseg_tf.engine.history import read_history
from strokeseg_tf.models.variants import build_model
from strokeseg_tf.prediction.keras_engine import KerasEngine
from strokeseg_tf.prediction.network import NetworkPredictor
from strokeseg_tf.runs import Run
from tfrecord_tools.conversion import convert
from tfrecord_tools.errors import InputError
from tuning.local_job import _share
from tuning.plan import Plan
from tuning.results import read_results
from tuning.search_space import default_space, searched_config
from tuning.starts import Starts
from tuning.trial import run_trial

TINY = {
    "model": {
        "variant": "unimodal",
        "modality": "dwi",
        "filters": [2, 3],
        "bottleneck": 4,
        "image_size": 32,
    },
    "training": {"epochs": 2, "batch_size": 4},
}


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "tiny.json"
    path.write_text(json.dumps(TINY), encoding="utf-8")
    return path


def tune(shards, folder, config, *options):
    """The command's words."""
    line = ["tune", str(shards), "--run", str(folder), "--preset", "small", "--config", str(config)]
    return [*line, *map(str, options)]


def start(line):
    """The command as a process of its own, without Ctrl-C from this one's terminal."""
    program = "import sys; from strokeseg_tf.cli import main; sys.exit(main())"
    return subprocess.Popen(
        [sys.executable, "-c", program, *line], stderr=subprocess.PIPE, start_new_session=True
    )


def wait_for(folder, pattern, process, seconds=300):
    deadline = time.monotonic() + seconds
    while not list(folder.glob(pattern)):
        assert process.poll() is None, process.stderr.read().decode()
        assert time.monotonic() < deadline, f"no {pattern}"
        time.sleep(0.05)


def start_with_workers(shards, folder, config):
    """A search by two workers that has a result: its words, the process, and its members'."""
    line = tune(shards, folder, config, "--trials", 4, "--repeats", 1, "--tuner", "random",
                "--workers", 2)  # fmt: skip
    process = start(line)
    wait_for(folder, "trial_*/result.json", process)
    names = members(process)
    assert set(names) == {"chief", "worker0", "worker1"}
    return line, process, names


def members(process):
    """The chief and the workers of a search: process ids by name."""
    children = subprocess.run(
        ["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True
    ).stdout.split()
    names = {}
    for child in children:
        environment = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        name = next(e for e in environment if e.startswith(b"KERASTUNER_TUNER_ID="))
        names[name.partition(b"=")[2].decode()] = int(child)
    return names


def wait_until_gone(pids):
    deadline = time.monotonic() + 20
    while any(os.path.exists(f"/proc/{pid}") for pid in pids):
        assert time.monotonic() < deadline, "they end with the process that started them"
        time.sleep(0.1)


def epochs_written(folder):
    """When each epoch of each run was written: a training that ran again would change it."""
    return {
        str(p.relative_to(folder)): (p.stat().st_mtime_ns, len(read_history(Run(p.parent))))
        for p in folder.glob("trial_*/*/history.csv")
    }


def table(folder):
    with open(folder / "trials.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def found(shards, config, tmp_path_factory):
    """A grid of two learning rates, at one of which the loss is no number."""
    folder = tmp_path_factory.mktemp("tuning") / "search"
    space = folder.parent / "space.json"
    off = dict.fromkeys(("alpha", "gamma", "lesion_weight", "background_weight"), False)
    rates = {"learning_rate": {"choices": [4e-3, 1e30]}}
    space.write_text(json.dumps(off | rates), encoding="utf-8")
    line = tune(shards, folder, config, "--tuner", "grid", "--space", space, "--repeats", 1)
    assert main(line) == 0
    return folder, line


def test_a_trial_that_fails_is_recorded_with_its_reason_and_the_search_goes_on(found):
    folder, _ = found
    rows = {row["trial"]: row for row in table(folder)}
    assert {t: r["status"] for t, r in rows.items()} == {
        "default-0": "complete", "0": "complete", "1": "failed"
    }  # fmt: skip
    assert "loss became nan" in rows["1"]["reason"] and not rows["1"]["validation_dice_native"]
    assert rows["0"]["reason"] == rows["default-0"]["reason"] == ""


def test_trials_are_runs_of_fit_and_their_scores_are_in_the_histories(found):
    folder, _ = found
    for row in table(folder)[:2]:
        history = read_history(Run(folder / f"trial_{row['trial']}" / "seed0"))
        assert len(history) == int(row["epochs"]) == 2
        best = max(epoch["val_dwi_dice"] for epoch in history)
        assert float(row["validation_dice_native"]) == pytest.approx(best)
    # The grid's first point is the default, and a seed gives the same twice.
    scores = {row["trial"]: row["validation_dice_native"] for row in table(folder)}
    assert scores["0"] == scores["default-0"]


def test_the_winner_is_a_configuration_that_fit_takes(found, shards, capsys):
    folder, _ = found
    best = read_config(folder / "best_config.json", SMALL)
    assert best.optimiser.learning_rate == 4e-3
    file = str(folder / "best_config.json")
    assert main(["fit", str(shards), "--run", "x", "--config", file, "--dry-run"]) == 0
    assert "0.004" in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_with_its_settings_names_the_search_and_the_trial(found, shards, tmp_path):
    folder, _ = found
    noted = json.loads((folder / "best_trial.json").read_text(encoding="utf-8"))
    assert (noted["name"], noted["trial"]) == ("search", "0")
    scores = {row["trial"]: float(row["validation_dice_native"]) for row in table(folder)[:2]}
    assert noted["score"] == pytest.approx(scores["0"])
    line = ["fit", str(shards), "--run", str(tmp_path / "run"), "--epochs", "1", "--config"]
    assert main([*line, str(folder / "best_config.json")]) == 0
    assert json.loads((tmp_path / "run" / "environment.json").read_text())["search"] == noted


def test_a_finished_search_is_told_again_and_trains_nothing(found, capsys):
    folder, line = found
    before = epochs_written(folder)
    assert main([*line, "--resume"]) == 0
    assert epochs_written(folder) == before
    printed = capsys.readouterr().out
    assert printed.startswith("trial ") and printed.rstrip().endswith("best_config.json")
    assert all(len(text) <= 80 for text in printed.splitlines()[:-1])


def test_a_finished_search_needs_no_workers(found):
    folder, line = found
    assert main([*line, "--resume", "--workers", "2"]) == 0
    assert not (folder / "logs").exists()


def test_a_removed_result_is_found_again_and_a_damaged_one_is_named(found, tmp_path, capsys):
    folder, line = found
    copy = tmp_path / "search"
    shutil.copytree(folder, copy)
    line = [*(str(copy) if word == str(folder) else word for word in line), "--resume"]
    path = copy / "trial_0" / "result.json"
    before = json.loads(path.read_text())
    path.write_text("{")
    assert main(line) == 2
    assert f"{path} is damaged" in (error := capsys.readouterr().err) and "remove it" in error
    path.unlink()
    (copy / "trials.csv").unlink()
    (copy / "trials.csv").mkdir()
    assert main(line) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "Is a directory" in error and "go on with --resume" in error
    assert "make room" not in error
    (copy / "trials.csv").rmdir()
    assert main(line) == 0
    after = json.loads(path.read_text())
    assert (after["score"], after["status"]) == (before["score"], "complete")
    assert len(table(copy)) == len(table(folder))


def test_a_search_goes_on_only_as_what_it_was(found, shards, cohort, config, tmp_path, capsys):
    folder, line = found
    convert(cohort, tmp_path / "other", shares={"train": 0.5, "validation": 0.5}, seed=1)
    wider = tmp_path / "space.json"
    wider.write_text('{"gamma": [0, 9]}', encoding="utf-8")
    before = json.loads((folder / "search.json").read_text())
    for change, words in (
        (["--space", str(wider)], "another space gamma"),
        (["--objective", "dwi"], "another objective (native then, dwi now)"),
        (["--epochs", "3"], "another training epochs (2 then, 3 now)"),
        (["--tuner", "random"], "another tuner (grid then, random now)"),
    ):
        assert main([*line, "--resume", *change]) == 2
        assert words in capsys.readouterr().err
    other = [str(tmp_path / "other") if word == str(shards) else word for word in line]
    assert main([*other, "--resume"]) == 2
    assert "another cohort" in capsys.readouterr().err
    newer = before | {"versions": before["versions"] | {"keras": "2.0"}}
    (folder / "search.json").write_text(json.dumps(newer), encoding="utf-8")
    assert main([*line, "--resume"]) == 2
    assert "another versions keras (2.0 then" in capsys.readouterr().err
    (folder / "search.json").write_text(json.dumps(before), encoding="utf-8")
    assert main(line) == 2
    assert "--overwrite" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--tuner", "unheard-of"], "known: bayesian, random, grid, hyperband"),
        (["--objective", "loss"], "known: native, slices, adc, dwi"),
        (["--trials", 0], "--trials must be at least 1"),
        (["--trials", 0, "--workers", 2], "--trials must be at least 1"),
        (["--tuner", "grid", "--trials", 5], "grid has 81 points"),
        (["--tuner", "hyperband", "--epochs", 9, "--trials", 12], "first bracket has 13 trials"),
        (["--folds"], "convert it with --folds"),
        (["--workers", 0], "--workers must be at least 1"),
        (["--space", "nowhere.json"], "nowhere.json"),
    ],
)
def test_what_cannot_be_searched_is_one_line(options, words, shards, config, tmp_path, capsys):
    assert main(tune(shards, tmp_path / "search", config, *options)) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert words in error and error.startswith("strokeseg-tf: error: ")
    assert not (tmp_path / "search").exists()


def test_uniform_that_was_asked_for_is_refused_and_the_preset_s_is_not(shards, tmp_path, capsys):
    config = tmp_path / "config.json"
    config.write_text(json.dumps(TINY | {"loss": {"alpha_reading": "uniform"}}), encoding="utf-8")
    assert main(tune(shards, tmp_path / "search", config)) == 2
    assert "constant factor, to which AdamW is blind" in capsys.readouterr().err


def test_the_report_opens_without_a_network_and_says_what_luck_would_give(found):
    page = (found[0] / "report.html").read_text(encoding="utf-8")
    assert "default-src 'none'" in page and "http" not in page.replace("http-equiv", "")
    for heading in ("In short", "Learning curves", "All trials", "Parallel coordinates"):
        assert f"<h2>{heading}</h2>" in page
    assert "on phantom data" in page and "nothing about noise" in page


def test_a_folder_that_cannot_take_the_winner_is_refused_before_the_search(
    shards, config, tmp_path, capsys
):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "notes.txt").write_text("mine")
    line = tune(shards, tmp_path / "search", config, "--fit-best", tmp_path / "taken")
    assert main(line) == 2
    assert "--fit-best" in (error := capsys.readouterr().err) and "--overwrite" not in error
    assert not (tmp_path / "search").exists()


def test_a_run_with_other_settings_is_told_by_its_option(found, tmp_path, capsys):
    folder, line = found
    run = Run(tmp_path / "run")
    run.folder.mkdir()
    run.write_config(SMALL)
    assert main([*line, "--resume", "--fit-best", str(run.folder)]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "--fit-best" in error and "another folder" in error
    assert run.read_config() == SMALL


@pytest.mark.slow
def test_ctrl_c_ends_soon_and_keeps_what_is_finished(shards, config, tmp_path):
    folder = tmp_path / "search"
    line = tune(shards, folder, config, "--trials", 9, "--repeats", 1, "--tuner", "random")
    process = start(line)
    wait_for(folder, "trial_default-0/result.json", process)
    wait_for(folder, "trial_0/starts", process)
    asked = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    assert time.monotonic() - asked < 5
    assert b"interrupted" in process.stderr.read()
    assert [row["trial"] for row in table(folder)] == ["default-0"]
    before = epochs_written(folder)["trial_default-0/seed0/history.csv"]
    line[line.index("--trials") + 1] = "1"
    assert main([*line, "--resume"]) == 0
    assert [r["trial"] for r in read_results(folder)] == ["default-0", "0"]
    assert epochs_written(folder)["trial_default-0/seed0/history.csv"] == before


@pytest.mark.slow
def test_ctrl_c_reaches_workers_and_chief_and_the_search_goes_on(shards, config, tmp_path):
    folder = tmp_path / "search"
    line, process, names = start_with_workers(shards, folder, config)
    # As a terminal does it: all of them hear it.
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(30) == 130
    assert b"interrupted" in process.stderr.read()
    wait_until_gone(names.values())
    assert not list(folder.glob("trial_*/starts"))
    finished = {f"trial_{r['trial']}" for r in read_results(folder)}
    before = {k: v for k, v in epochs_written(folder).items() if k.split("/")[0] in finished}
    assert finished and before
    again = start([*line, "--resume"])
    assert again.wait(300) == 0, again.stderr.read().decode()
    results = read_results(folder)
    assert [r["trial"] for r in results] == ["default-0", "0", "1", "2", "3"]
    assert {r["status"] for r in results} == {"complete"}
    assert before.items() <= epochs_written(folder).items()


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["worker0", "chief", "all"])
def test_workers_and_their_chief_may_be_killed(victim, shards, config, tmp_path):
    folder = tmp_path / "search"
    line, process, names = start_with_workers(shards, folder, config)
    finished = {r["trial"] for r in read_results(folder)}
    before = epochs_written(folder)
    os.kill(process.pid if victim == "all" else names[victim], signal.SIGKILL)
    status = process.wait(300)
    assert (status == 0) == (victim == "worker0")
    if status:
        wait_until_gone(names.values())
        again = start([*line, "--resume"])
        assert again.wait(300) == 0, again.stderr.read().decode()
    results = read_results(folder)
    assert [r["trial"] for r in results] == ["default-0", "0", "1", "2", "3"]
    assert {r["status"] for r in results} == {"complete"}
    after = epochs_written(folder)
    for name in before:
        if name.split("/")[0].removeprefix("trial_") in finished:
            assert after[name] == before[name], "a finished trial ran again"
    assert all(epochs == 2 for _, epochs in after.values())


@pytest.mark.slow
def test_a_trial_whose_worker_dies_thrice_is_given_up_and_the_search_goes_on(
    shards, config, tmp_path
):
    folder = tmp_path / "search"
    process = start(tune(shards, folder, config, "--epochs", 60, "--trials", 2, "--repeats", 0,
                         "--tuner", "random", "--workers", 1))  # fmt: skip
    for deaths in range(3):
        wait_for(folder, "trial_0/starts", process)
        while len(lines := (folder / "trial_0" / "starts").read_text().splitlines()) == deaths or (
            lines[-1].endswith(" 0")
        ):
            assert process.poll() is None, process.stderr.read().decode()
            time.sleep(0.01)
        os.kill(members(process)["worker0"], signal.SIGKILL)
    assert process.wait(300) == 0, process.stderr.read().decode()
    assert [(r["trial"], r["status"]) for r in read_results(folder)] == [
        ("0", "failed"), ("1", "complete")
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--workers", 1)])
def test_a_full_disk_is_one_sentence_and_loses_nothing(options, shards, config, small_disk):
    place, remount = small_disk
    remount("size=30m")
    folder = place / "search"
    line = tune(
        shards, folder, config, "--trials", 2, "--repeats", 1, "--tuner", "random", *options
    )
    process = start(line)
    wait_for(folder, "trial_default-0/result.json", process)
    with contextlib.suppress(OSError), open(place / "filler", "wb") as filler:
        while True:
            filler.write(b"0" * 4096)
            filler.flush()
    before = epochs_written(folder)["trial_default-0/seed0/history.csv"]
    assert process.wait(300) == 2
    last = process.stderr.read().decode().splitlines()[-1]
    assert "No space left on device" in last and "--resume" in last
    (place / "filler").unlink()
    assert main([*line, "--resume"]) == 0
    results = read_results(folder)
    assert [(r["trial"], r["status"]) for r in results] == [
        ("default-0", "complete"), ("0", "complete"), ("1", "complete")
    ]  # fmt: skip
    assert epochs_written(folder)["trial_default-0/seed0/history.csv"] == before


@pytest.mark.slow
def test_hyperband_goes_on_with_what_it_promotes(shards, config, tmp_path):
    folder = tmp_path / "search"
    line = tune(shards, folder, config, "--tuner", "hyperband", "--epochs", 3, "--trials", 4)
    assert main([*line, "--repeats", "0"]) == 0
    results = {r["trial"]: r for r in read_results(folder)}
    assert [len(results[str(n)]["trainings"][0]["curve"]) for n in range(4)] == [1, 1, 1, 3]
    before = results["3"]["values"]["tuner/trial_id"]
    best = max(results[str(n)]["score"] for n in range(3))
    assert results[before]["score"] == best
    first, promoted = (
        read_history(Run(folder / f"trial_{trial}" / "seed0")) for trial in (before, "3")
    )
    assert promoted[:1] == first  # To the second it took: it was not trained again.


@pytest.mark.slow
def test_a_trial_may_be_a_mean_over_folds_and_seeds(cohort, config, tmp_path):
    shards, folder = tmp_path / "shards", tmp_path / "search"
    convert(cohort, shards, shares={"train": 0.75, "test": 0.25}, folds=2)
    line = tune(shards, folder, config, "--folds", "--executions", 2, "--trials", 1, "--epochs", 1)
    assert main([*line, "--repeats", "0"]) == 0
    (result,) = read_results(folder)
    names = [f"fold{fold}-seed{seed}" for fold in range(2) for seed in range(2)]
    assert [training["run"] for training in result["trainings"]] == names
    scores = [training["score"] for training in result["trainings"]]
    assert result["score"] == pytest.approx(sum(scores) / 4) and result["sd"] is not None


def test_cached_studies_keep_no_network_alive(shards):
    base = SMALL.replace(**TINY)
    network = build_model(base.model)
    cache = DataCache(shards)
    wanted = {"split": "validation", "rater": base.training.rater}
    before = list(cache.studies(NetworkPredictor(KerasEngine(network)), **wanted))
    seen = weakref.ref(network)
    del network
    gc.collect()
    assert seen() is None
    after = list(cache.studies(NetworkPredictor(KerasEngine(build_model(base.model))), **wanted))
    assert before and all(a is b for a, b in zip(after, before, strict=True))


def test_workers_share_the_processors_of_this_process(monkeypatch):
    monkeypatch.delenv("TF_NUM_INTRAOP_THREADS", raising=False)
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, [min(allowed)])
        assert _share("worker0", 1)["TF_NUM_INTRAOP_THREADS"] == "1"
    finally:
        os.sched_setaffinity(0, allowed)


class Death(BaseException):
    """What a kill is for the process that it hits."""


class DyingPlan(Plan):
    """A plan under which each process ends at the end of the second epoch that it trains."""

    def value_of(self, row):
        # Rows of the history, of epochs that were trained before, have their number.
        if "epoch" not in row and next(self.asked) == 2:
            raise self.end
        return super().value_of(row)


def start_dying(search, shards, end):
    base = SMALL.replace(**TINY).replace(training={"epochs": 9})
    plan = DyingPlan(searched_config(base), base, default_space())
    object.__setattr__(plan, "asked", itertools.count(1))
    object.__setattr__(plan, "end", end)
    return run_trial(search, "0", {}, base, plan, DataCache(shards))


def test_a_trial_that_kills_its_process_is_given_up(shards, tmp_path):
    """Whether the epoch before was kept or not, and no sooner than at the fourth start."""
    for _ in range(3):
        with pytest.raises(Death):
            start_dying(tmp_path, shards, Death)
    result = start_dying(tmp_path, shards, Death)
    assert result["status"] == "failed" and "its process ended 3 times" in result["reason"]
    assert result["score"] is None
    assert start_dying(tmp_path, "nowhere", Death) == result


def test_a_trial_whose_result_was_removed_needs_no_checkpoint(shards, tmp_path):
    """It had ended early and would, by the rules of now, go on."""
    base = SMALL.replace(**TINY).replace(training={"epochs": 3})
    for patience, epochs in ((1, 2), (None, 3)):
        plan = Plan(searched_config(base), base, default_space(), patience=patience)
        result = run_trial(tmp_path, "0", {}, base, plan, DataCache(shards))
        assert (result["status"], result["epochs"]) == ("complete", epochs), result["reason"]
        (tmp_path / "trial_0" / "result.json").unlink()


def test_a_trial_that_is_stopped_has_not_died(shards, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        start_dying(tmp_path, shards, KeyboardInterrupt)
    assert (tmp_path / "trial_0" / "seed0" / "history.csv").is_file()
    assert not (tmp_path / "trial_0" / "starts").exists()


@pytest.mark.parametrize(
    ("epochs", "words"),
    [
        ([[], [], []], "in epoch 0"),
        ([[1, 2], [2], [2]], "in epoch 2"),
        ([[1, 2, 3], [2, 3, 4], [4, 5, 6]], "begun 3 epochs"),
        ([[1, 2, 3], [2, 3, 4], [3, 4]], None),
        ([[1], [1]], None),
    ],
)
def test_deaths_at_the_same_point_are_told_from_others(epochs, words, tmp_path):
    for begun in epochs:
        starts = Starts(tmp_path)
        for epoch in begun:
            starts.begin("seed0", epoch)
    if words:
        with pytest.raises(InputError, match=words):
            Starts(tmp_path)
    else:
        Starts(tmp_path)


def test_ctrl_c_in_the_midst_of_a_long_step_is_no_death(tmp_path):
    """Python's own handler is not heard in such a step; here it does nothing."""
    (tmp_path / "trial_0").mkdir()
    Starts(tmp_path / "trial_0")
    program = """if True:
        import functools, pathlib, signal, sys, time
        from strokeseg_tf.interruption import prompt_interruption
        from tuning.starts import forget_all_starts
        signal.signal(signal.SIGINT, lambda *_: None)
        forget = functools.partial(forget_all_starts, pathlib.Path(sys.argv[1]))
        with prompt_interruption(0.1, forget):
            signal.raise_signal(signal.SIGINT)
            time.sleep(60)
    """
    ended = subprocess.run([sys.executable, "-c", program, tmp_path], capture_output=True)
    assert ended.returncode == 130 and b"interrupted" in ended.stderr
    assert not (tmp_path / "trial_0" / "starts").exists()


@pytest.mark.slow
def test_a_polite_kill_of_all_is_no_death(shards, config, tmp_path):
    folder = tmp_path / "search"
    _, process, names = start_with_workers(shards, folder, config)
    wait_for(folder, "trial_*/starts", process)
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait(30) == 130
    wait_until_gone(names.values())
    assert not list(folder.glob("trial_*/starts"))
