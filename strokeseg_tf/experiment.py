"""The paper's experiment on any cohort: every variant trained, evaluated and reported together."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from strokeseg_tf.config import Config
from tfrecord_tools.atomic import check_free, write_text
from tfrecord_tools.errors import InputError
from tfrecord_tools.shards import read_dataset_info

#: The rows of Table 1: run -> the model settings that make it.
VARIANTS = {
    "unimodal_adc": {"variant": "unimodal", "modality": "adc"},
    "unimodal_dwi": {"variant": "unimodal", "modality": "dwi"},
    "dual_v1": {"variant": "dual_v1"},
    "dual_v2": {"variant": "dual_v2"},
    "dual_v3": {"variant": "dual_v3"},
}

#: What the folder of an experiment is known by: its settings and its data.
EXPERIMENT = "experiment.json"


def train_variants(
    shards: str | Path,
    out: str | Path,
    config: Config,
    *,
    split: str = "test",
    convention: str = "isles22",
    overwrite: bool = False,
    verbose: bool = True,
    on_run: Callable[[int, int, str], None] | None = None,
) -> dict[str, Path]:
    """Train the five models of Table 1 under one configuration.

    Called again after an interruption it goes on from the last epoch that was kept; what is
    finished is left as it is.

    Args:
        shards: A finished shards folder with training studies and `split`.
        out: Folder to write: `experiment.json`, and `runs/` with a run folder for each of
            `VARIANTS`.
        config: All settings but the variant and the modality.
        split: Studies that `evaluate_variants` will score.
        convention: How; see `evaluate_variants`.
        overwrite: Begin anew where `out` holds an experiment.
        verbose: See `strokeseg_tf.training.fit`.
        on_run: Called with (number, runs in all, name) before each training.

    Returns:
        Run folders by name.

    Raises:
        InputError: `out` holds something else, or an experiment with other settings or data; no
            usable data.
    """
    import keras

    from strokeseg_tf.training import fit

    out = Path(out)
    _open(out, _plan(shards, config, split, convention), overwrite)
    runs = {name: out / "runs" / name for name in VARIANTS}
    for number, (name, model) in enumerate(VARIANTS.items(), 1):
        if on_run:
            on_run(number, len(VARIANTS), name)
        keras.utils.clear_session()
        fit(shards, runs[name], config.replace(model=model), resume=True, verbose=verbose)
    return runs


def evaluate_variants(
    shards: str | Path, out: str | Path, on_study: Callable[[int, int], None] | None = None
) -> Path:
    """Evaluate what `train_variants` has trained, all runs in one report.

    Args:
        shards: The shards folder of the training.
        out: The folder of the experiment; `evaluation/` is written into it unless it is there.
        on_study: Called with (studies done, studies in all).

    Returns:
        The report, `out/evaluation/report.html`.

    Raises:
        InputError: `out` is no experiment or one on other data, or a run is missing.
    """
    from strokeseg_tf.evaluation.cases import evaluate_runs
    from strokeseg_tf.evaluation.evaluate import SUMMARY

    plan = _read_plan(Path(out) / EXPERIMENT)
    if plan["data"] != _checksums(shards):
        raise InputError(f"{out} was trained on other data than {shards}; name those shards")
    evaluation = Path(out) / "evaluation"
    if not (evaluation / SUMMARY).is_file():
        evaluate_runs(
            [Path(out) / "runs" / name for name in VARIANTS],
            shards,
            evaluation,
            split=plan["split"],
            convention=plan["convention"],
            on_study=on_study,
        )
    return evaluation / "report.html"


def _plan(shards: str | Path, config: Config, split: str, convention: str) -> dict:
    """What an experiment must not change on the way."""
    info = read_dataset_info(shards)
    if not any(info.studies[study]["masks"] for study in info.splits.get(split, ())):
        raise InputError(
            f"the split {split!r} of {shards} has no reference to evaluate against; splits: "
            f"{', '.join(info.splits)}"
        )
    settings = config.to_dict()
    for name in ("variant", "modality"):
        settings["model"].pop(name)
    return {
        # As JSON gives it back, to be compared.
        "settings": json.loads(json.dumps(settings)),
        "split": split,
        "convention": convention,
        "data": _checksums(shards),
    }


def _checksums(shards: str | Path) -> dict[str, str]:
    info = read_dataset_info(shards)
    return {name: facts["sha256"] for name, facts in sorted(info.shards.items())}


def _read_plan(path: Path) -> dict:
    if not path.is_file():
        raise InputError(f"{path.parent} is no experiment (it has no {path.name}); train it first")
    try:
        plan = json.loads(path.read_text(encoding="utf-8"))
        return {key: plan[key] for key in ("settings", "split", "convention", "data")}
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path} is damaged: {error}; pass --overwrite to begin anew") from error


def _open(out: Path, plan: dict, overwrite: bool) -> None:
    """Begin an experiment, or check that the one that is there is this one."""
    path = out / EXPERIMENT
    if path.is_file() and not overwrite:
        before = _read_plan(path)
        if changed := [key for key in plan if before[key] != plan[key]]:
            raise InputError(
                f"{out} was started with other {' and '.join(changed)}; go on with the same ones, "
                "choose another name, or pass --overwrite to begin anew"
            )
        return
    check_free(out, overwrite, marker=EXPERIMENT)
    if out.exists():
        shutil.rmtree(out)
    out.mkdir(parents=True)
    write_text(path, json.dumps(plan, indent=2) + "\n")
