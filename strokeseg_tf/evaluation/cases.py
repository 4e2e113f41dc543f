"""Runs and a shards folder -> the cases that evaluation scores."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from strokeseg_tf.evaluation.case import Case
from strokeseg_tf.evaluation.evaluate import SUMMARY, evaluate_cases
from strokeseg_tf.runs import Run
from tfrecord_tools.atomic import check_free
from tfrecord_tools.errors import InputError
from tfrecord_tools.reader import read_studies
from tfrecord_tools.shards import read_dataset_info


def name_runs(folders) -> dict[str, Run]:
    """Run folders by the shortest end of their paths that keeps them apart.

    Raises:
        InputError: A folder is named twice.
    """
    folders = [Path(folder).resolve() for folder in folders]
    if len(set(folders)) < len(folders):
        raise InputError("a run folder is named twice; name each once")
    parts = 1
    while len({folder.parts[-parts:] for folder in folders}) < len(folders):
        parts += 1
    return {"/".join(folder.parts[-parts:]): Run(folder) for folder in folders}


def predicted_cases(
    predictors: Mapping,
    shards: str | Path,
    split: str,
    on_study: Callable[[int, int], None] | None = None,
) -> Iterator[Case]:
    """Predict the studies of a split with every run, one study in memory at a time.

    Args:
        predictors: `strokeseg_tf.prediction.Predictor` by run name.
        shards: A finished shards folder.
        split: Name of the split.
        on_study: Called with (studies done, studies in all).
    """
    total = len(read_dataset_info(shards).splits.get(split, ()))
    for done, study in enumerate(read_studies(shards, split), 1):
        predictions = {}
        for run, predictor in predictors.items():
            if set(predictor.modalities) <= set(study.images):
                probabilities = predictor.predict(study.images)
                predictions[run] = {m: p > predictor.threshold for m, p in probabilities.items()}
        yield Case(
            study=study.study,
            group=study.group,
            spacing_mm=study.grid.spacing_mm,
            affine=study.grid.canonical.affine,
            images={m: study.in_standard_unit(m) for m in study.images},
            references=study.masks,
            predictions=predictions,
        )
        if on_study:
            on_study(done, total)


def evaluate_runs(
    folders, shards, out, *, split="test", convention="isles22", overwrite=False, on_study=None
):
    """Evaluate run folders on a split of a shards folder.

    Args:
        folders: Run folders.
        shards: A finished shards folder.
        out: Folder to write; see `strokeseg_tf.evaluation.evaluate.evaluate_cases`.
        split: Name of the split.
        convention: Key of `strokeseg_tf.evaluation.scores.CONVENTIONS`.
        overwrite: Replace `out` if it exists.
        on_study: Called with (studies done, studies in all).

    Returns:
        The content of `summary.json`.

    Raises:
        InputError: No such split, run or reference.
    """
    from strokeseg_tf.loading import load_predictor

    runs = name_runs(folders)
    configs = {name: run.read_config() for name, run in runs.items()}
    info = read_dataset_info(shards)
    if not any(info.studies[study]["masks"] for study in info.splits.get(split, ())):
        known = ", ".join(info.splits)
        raise InputError(f"the split {split!r} of {shards} has no reference; splits: {known}")
    check_free(out, overwrite, marker=SUMMARY)
    predictors = {name: load_predictor(run.folder) for name, run in runs.items()}
    return evaluate_cases(
        predicted_cases(predictors, shards, split, on_study),
        {name: config.model.variant for name, config in configs.items()},
        out,
        convention=convention,
        settings={
            "split": split,
            "phantom": all(study.startswith("phantom-") for study in info.splits[split]),
            "data": {"counts": info.counts, "seed": info.seed, "versions": info.versions},
            "runs": {name: config.to_dict() for name, config in configs.items()},
        },
        overwrite=overwrite,
    )
