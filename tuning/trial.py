"""One trial: trainings under the seeds and folds of the plan, and what came of them."""

import errno
import functools
import shutil
import statistics
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path

import keras
import keras_tuner
import tensorflow as tf

from strokeseg_tf.config import Config
from strokeseg_tf.data_cache import DataCache
from strokeseg_tf.engine.history import read_history
from strokeseg_tf.runs import Run
from strokeseg_tf.training import fit
from tfrecord_tools.errors import InputError
from tuning.plan import Plan
from tuning.results import read_result, repeat_of, trial_folder, write_result
from tuning.starts import Starts, forget_starts
from tuning.stopping import EarlyEnd, StoppingRules


def run_trial(
    search: Path,
    trial: str,
    values: Mapping,
    config: Config,
    plan: Plan,
    cache: DataCache,
    *,
    others: Sequence[Mapping] = (),
) -> dict:
    """Run a trial, go on with one that was interrupted, or give the result that is there.

    Args:
        search: Folder of the search.
        trial: Id of the trial.
        values: What the tuner proposes; of Hyperband also `tuner/...`.
        config: All settings of the trial.
        plan: The search.
        cache: Data that trials share.
        others: Results to prune by.

    Returns:
        The content of `result.json`: `status` is `complete`, `pruned` or `failed`; what has failed
        has no `score`.

    Raises:
        keras_tuner.errors.FatalError: The disk is full.
    """
    if result := read_result(search, trial):
        return result
    folder = trial_folder(search, trial)
    folder.mkdir(parents=True, exist_ok=True)
    start, trainings, status, reason = time.perf_counter(), [], "complete", None
    try:
        starts = Starts(folder)
        for name, settings in executions(config, plan, repeat_of(trial)[1]).items():
            _take_over(search, folder, name, values)
            rules = _rules(settings, values, plan, name, others, first=not trainings)
            on_begin = functools.partial(starts.begin, name)
            trainings.append(_train(folder / name, settings, rules, plan, cache, on_begin))
            if trainings[-1]["end"] == "median":
                status, reason = "pruned", "its best epoch was below the median of other trials"
                break
    except KeyboardInterrupt:
        forget_starts(folder)
        raise
    except Exception as error:
        status, reason = "failed", _reason(error)
        (folder / "error.txt").write_text(traceback.format_exc(), encoding="utf-8")
    result = _summary([] if status == "failed" else trainings, plan) | {
        "trial": trial,
        "status": status,
        "reason": reason,
        "values": dict(values),
        "epochs": sum(len(training["curve"]) for training in trainings),
        "seconds": time.perf_counter() - start,
        "trainings": trainings,
    }
    write_result(search, result)
    forget_starts(folder)
    if plan.tuner != "hyperband":  # Whose later rounds go on from these.
        for name in executions(config, plan, repeat_of(trial)[1]):
            shutil.rmtree(Run(folder / name).checkpoints, ignore_errors=True)
    return result


def executions(config: Config, plan: Plan, repeat: int = 0) -> dict[str, Config]:
    """Settings by name of the run folder: every fold under every seed."""
    runs = {}
    for fold in range(plan.folds) if plan.folds else [config.training.fold]:
        for number in range(plan.executions):
            seed = config.training.seed + repeat * plan.executions + number
            name = f"seed{seed}" if fold is None else f"fold{fold}-seed{seed}"
            # A threshold left to validation would be chosen after each training, for nothing.
            training = {"seed": seed, "fold": fold, "threshold": config.training.metric_threshold}
            runs[name] = config.replace(training=training)
    return runs


def _rules(config, values, plan, name, others, first) -> StoppingRules:
    epochs = config.training.epochs
    curves = []
    # Hyperband prunes by itself; a mean over some of the executions would compare unlike things.
    if first and plan.pruning == "median" and plan.tuner != "hyperband":
        curves = [t["curve"] for other in others for t in other["trainings"] if t["run"] == name]
    return StoppingRules(epochs, int(values.get("tuner/epochs", epochs)), plan.patience, curves)


def _take_over(search, folder, name, values):
    """Begin where the trial that Hyperband promotes has ended."""
    if (before := values.get("tuner/trial_id")) and not (folder / name).exists():
        partial = folder / f"partial-{name}"
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(trial_folder(search, before) / name, partial)
        partial.rename(folder / name)


def _train(run, config, rules, plan, cache, on_begin) -> dict:
    history = read_history(Run(run))
    curve = [plan.value_of(row) for row in history]
    if not rules.reason(curve):
        if history and not Run(run).checkpoints.is_dir():
            # Of a trial that had ended, whose result was removed: it begins anew.
            shutil.rmtree(run)
            curve.clear()
        keras.utils.clear_session()  # It collects garbage, too.
        end = EarlyEnd(rules, plan.value_of, curve, on_begin)
        options = {"resume": True, "verbose": False, "callbacks": [end], "cache": cache}
        history = fit(cache.shards, run, config, trial=True, **options)
    best = max(history, key=plan.value_of)
    return {
        "run": run.name,
        "end": rules.reason(curve),
        "score": plan.value_of(best),
        "dice": {m: best[f"val_{m}_dice"] for m in plan.modalities},
        "curve": curve,
        "seconds": sum(row["seconds"] for row in history),
    }


def _summary(trainings, plan) -> dict:
    scores = [training["score"] for training in trainings]
    dice = {
        m: statistics.mean(training["dice"][m] for training in trainings)
        for m in plan.modalities
        if trainings
    }
    return {
        "score": statistics.mean(scores) if scores else None,
        "sd": statistics.stdev(scores) if len(scores) > 1 else None,
        "dice": dice,
    }


#: What a full disk is called by the libraries that write.
_FULL = ("No space left on device", "Disk quota exceeded")


def disk_is_full(error: BaseException | None) -> bool:
    """Whether an error says that there is no room, or no more for this user."""
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return full or any(words in str(error) for words in _FULL)


def _reason(error: Exception) -> str:
    """One line on why a trial failed.

    Raises:
        keras_tuner.errors.FatalError: A full disk: the next trial would fail as well.
    """
    text = " ".join(str(error).split())
    if disk_is_full(error):
        raise keras_tuner.errors.FatalError(f"the disk is full ({text[:160]})") from error
    if isinstance(error, MemoryError | tf.errors.ResourceExhaustedError):
        return f"out of memory ({text[:160]})"
    if isinstance(error, InputError):
        return text
    return f"{type(error).__name__}: {text[:300]}"
