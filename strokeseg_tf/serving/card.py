"""The facts of a model card, after Mitchell et al., Model Cards for Model Reporting (2019).

Everything comes from the run's own files and from an evaluation of it; what they do not say, the
card does not say. Of studies it holds counts, never ids: cards travel further than data.
"""

import csv
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from strokeseg_tf.runs import Run
from tfrecord_tools.errors import InputError

#: What the table of metrics shows, in this order.
METRICS = {
    "dice": "Dice",
    "precision": "Precision",
    "sensitivity": "Sensitivity",
    "lesion_f1": "Lesion F1",
    "hd95_mm": "HD95 (mm)",
    "absolute_volume_difference_ml": "Volume off by (ml)",
}
#: A study below this Dice is counted as failed.
FAILED_DICE = 0.2


def model_card(run: Run, network, description: Mapping, evaluation: Path | None = None) -> dict:
    """Gather what there is to know about a run.

    Args:
        run: The run that is exported.
        network: Its Keras model.
        description: What the export says of itself.
        evaluation: Folder that `evaluate` wrote for this run, or None.

    Returns:
        Sections by name, ready for JSON.

    Raises:
        InputError: A file of the run or the evaluation is missing or damaged, or the evaluation
            is of another run, of other weights or of another threshold.
    """
    environment = _read_json(run.environment_file, missing={})
    splits = environment.get("data", {}).get("splits", {})
    config = run.read_config()
    model = _model(run, network, description, config, environment)
    return {
        "model": model,
        "training": {
            "splits": _split_sizes(environment, splits, config.training),
            "phantom": _is_phantom(splits),
            "settings": config.to_dict(),
            "search": environment.get("search"),
            **_history(run),
        },
        "evaluation": (
            None if evaluation is None else _evaluation(run, model, config, splits, evaluation)
        ),
    }


def _model(run: Run, network, description: Mapping, config, environment: Mapping) -> dict:
    return {
        **{key: description[key] for key in ("variant", "modalities", "image_size")},
        **{key: description[key] for key in ("precision", "threshold", "weights_sha256")},
        "threshold_source": _threshold_source(run, config),
        "parameters": int(network.count_params()),
        "trainable_parameters": sum(
            int(variable.shape.num_elements()) for variable in network.trainable_variables
        ),
        "exported_on": time.strftime("%Y-%m-%d", time.gmtime()),
        "versions": {"exported with": description["versions"]}
        | ({"trained with": v} if (v := environment.get("versions")) else {}),
    }


def _split_sizes(environment: Mapping, splits: Mapping, settings) -> dict[str, dict]:
    """Studies, slices and role of each split of the data that the run was made from."""
    shards = environment.get("data", {}).get("shards", {}).values()
    roles = {settings.train_split: "learnt", settings.validation_split: "weights chosen on"}
    return {
        name: {
            "studies": len(studies),
            "slices": sum(shard["records"] for shard in shards if shard["split"] == name) or None,
            "role": roles.get(name, "not learnt"),
        }
        for name, studies in splits.items()
    }


def _is_phantom(splits: Mapping) -> bool | None:
    """Whether all studies are phantoms; None where the run did not record its studies."""
    studies = [study for split in splits.values() for study in split]
    return all(study.startswith("phantom-") for study in studies) if studies else None


def _threshold_source(run: Run, config) -> str:
    if not run.threshold_file.is_file():
        return "set before training"
    choice = _read_json(run.threshold_file)
    return (
        f"chosen after training: best Dice on the split {choice['split']}, rater {choice['rater']}"
    )


def _history(run: Run) -> dict[str, Any]:
    """Epochs, the best of them, and its validation Dice by modality."""
    if not run.history_file.is_file():
        return {"epochs": None, "best_epoch": None, "validation_dice": None}
    try:
        with open(run.history_file, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        dice = [
            {m: float(row[key]) for m in ("adc", "dwi") if (key := f"val_{m}_dice") in row}
            for row in rows
        ]
        best = max(range(len(rows)), key=lambda i: sum(dice[i].values()))
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{run.history_file} is damaged: {error}; train the run anew") from error
    return {"epochs": len(rows), "best_epoch": best + 1, "validation_dice": dice[best]}


def _evaluation(run: Run, model: Mapping, config, splits: Mapping, folder: Path) -> dict[str, Any]:
    """What an evaluation says of this run."""
    from strokeseg_tf.evaluation.evaluate import SUMMARY
    from strokeseg_tf.evaluation.table import read_scores

    summary = _read_json(folder / SUMMARY)
    try:
        rows = read_scores(folder / "scores.csv")
        name = _name_in(summary, run, config, folder)
        weights_known = _check_weights(summary, name, model, folder)
        results = [r for r in summary["results"] if r["run"] == name]
        statistics = summary["statistics"]
        scored = {row["study"] for row in rows if row["run"] == name}
        return {
            "weights_known": weights_known,
            "phantom": bool(summary["phantom"]),
            "convention": summary["convention"],
            "studies": summary["studies"],
            "controls": summary["controls"],
            "also_trained_on": len(scored & set(splits.get(config.training.train_split, ()))),
            "also_chosen_on": len(scored & set(splits.get(config.training.validation_split, ()))),
            "results": [
                _result(result, [row for row in rows if _same(row, result)], statistics)
                for result in results
            ],
        }
    except FileNotFoundError as error:
        raise InputError(
            f"{folder} has no {Path(error.filename).name}; name a folder that strokeseg-tf "
            "evaluate wrote"
        ) from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(
            f"{folder} is no evaluation that can be read ({error}); evaluate the run anew"
        ) from error


def _same(entry: Mapping, result: Mapping) -> bool:
    return all(entry[key] == result[key] for key in ("run", "modality", "rater"))


def _name_in(summary: Mapping, run: Run, config, folder: Path) -> str:
    """What the evaluation calls this run: the end of its path."""
    names = {result["run"]: result["variant"] for result in summary["results"]}
    parts = run.folder.resolve().parts
    for name, variant in names.items():
        ends = tuple(name.split("/"))
        if parts[-len(ends) :] == ends:
            if variant != config.model.variant:
                raise InputError(
                    f"{folder} has a run {name} of the variant {variant}, but {run.folder} is "
                    f"{config.model.variant}; evaluate this run"
                )
            return name
    raise InputError(
        f"{folder} does not evaluate the run {run.folder.resolve().name}, but "
        f"{', '.join(sorted(names))}; evaluate this run first"
    )


def _check_weights(summary: Mapping, name: str, model: Mapping, folder: Path) -> bool:
    """Refuse results of other weights or another threshold; False where nothing tells them."""
    evaluated = summary.get("runs", {}).get(name, {})
    if not evaluated.get("weights_sha256"):
        return False
    if evaluated["weights_sha256"] != model["weights_sha256"]:
        raise InputError(
            f"{folder} scored other weights of {name} than its model.keras now holds (sha256 "
            f"{evaluated['weights_sha256'][:12]}, not {model['weights_sha256'][:12]}); evaluate "
            "the run anew"
        )
    if evaluated["threshold"] != model["threshold"]:
        raise InputError(
            f"{folder} scored {name} at the threshold {evaluated['threshold']}, but "
            f"{model['threshold']} would be exported; evaluate the run anew"
        )
    return True


def _result(result: Mapping, rows: list[Mapping], statistics: Mapping) -> dict[str, Any]:
    """Scores of one modality against one rater, over stroke studies; controls are apart."""
    intervals = {e["metric"]: e for e in statistics["intervals"] if _same(e, result)}
    dice = sorted(row["dice"] for row in rows if row["group"] != "control")
    return {
        "modality": result["modality"],
        "rater": result["rater"],
        "studies": result["stroke"]["n"],
        "metrics": {
            metric: {key: intervals[metric][key] for key in ("n", "mean", "lower", "upper")}
            for metric in METRICS
            if metric in intervals
        },
        "sizes": [
            {key: entry[key] for key in ("bin", "studies", "dice", "sensitivity", "missed")}
            for entry in statistics["sizes"]
            if _same(entry, result)
        ],
        "failures": {
            "nothing_marked_though_drawn": len(result["stroke"]["missed"]),
            "dice_below": FAILED_DICE,
            "studies_below": sum(value < FAILED_DICE for value in dice),
            "lowest_dice": dice[0] if dice else None,
            "controls": result["control"]["n"],
            "controls_marked": len(result["control"]["false_positives"]["studies"]),
        },
    }


def _read_json(path: Path, missing: Any = None) -> Any:
    """The content of a JSON file; where there is none, `missing` unless that is None."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        if missing is not None:
            return missing
        raise InputError(
            f"{path.parent} has no {path.name}; name a folder that strokeseg-tf evaluate wrote"
        ) from error
    except ValueError as error:
        raise InputError(f"{path} is damaged: {error}; write it anew") from error
