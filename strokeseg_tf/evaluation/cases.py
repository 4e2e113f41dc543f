"""Runs, or stored predictions, and a shards folder -> the cases that evaluation scores."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from strokeseg_tf.cohort import RESULT
from strokeseg_tf.evaluation.case import Case
from strokeseg_tf.evaluation.evaluate import SUMMARY, evaluate_cases
from strokeseg_tf.runs import Run
from tfrecord_tools.atomic import check_free
from tfrecord_tools.errors import InputError
from tfrecord_tools.grid import resample
from tfrecord_tools.names import file_name
from tfrecord_tools.nifti import read_mask
from tfrecord_tools.reader import read_studies
from tfrecord_tools.shards import read_dataset_info, sha256_of
from tfrecord_tools.study import Study

Arrays = Mapping[str, np.ndarray]  # by modality


class ModelSource:
    """A run folder, whose model predicts.

    Args:
        folder: What `fit` wrote.
    """

    def __init__(self, folder: Path):
        from strokeseg_tf.loading import load_predictor
        from strokeseg_tf.prediction.engines import Computing

        config = Run(folder).read_config()
        self.variant, self.settings = config.model.variant, config.to_dict()
        # What is published must not depend on the CPU.
        self._predictor = load_predictor(folder, computing=Computing(precision="float32"))
        self.weights_sha256 = sha256_of(Run(folder).model_file)
        self.threshold = self._predictor.threshold

    def predict(self, study: Study) -> tuple[Arrays, Arrays]:
        """Masks and probabilities on the study's slices; none where it lacks an image."""
        if not set(self._predictor.modalities) <= set(study.images):
            return {}, {}
        probabilities = self._predictor.predict(study.images)
        return {m: p > self.threshold for m, p in probabilities.items()}, probabilities


class StoredSource:
    """A folder of masks: what `predict` wrote, or masks of any program under the same names.

    Args:
        folder: Holds `predictions.json` and `{study}_{modality}_mask.nii.gz`.
    """

    variant = "stored"
    weights_sha256 = None

    def __init__(self, folder: Path):
        self._folder = folder
        path = folder / RESULT
        try:
            self.settings = json.loads(path.read_text(encoding="utf-8"))
            self.threshold = float(self.settings["threshold"])
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(f"{path} is damaged: {error}; run predict again") from error
        self.settings = {k: v for k, v in self.settings.items() if k not in ("studies", "failed")}

    def predict(self, study: Study) -> tuple[Arrays, Arrays]:
        """Masks on the study's slices, of the modalities that have one; no probabilities."""
        masks = {}
        for modality in study.images:
            path = self._folder / f"{file_name(study.study)}_{modality}_mask.nii.gz"
            if path.is_file():
                mask, grid = read_mask(path)
                # Of ADC that was resampled to DWI, the mask lies on ADC's own grid.
                moved = resample(mask, grid, study.grid, order=0) > 0.5
                masks[modality] = study.grid.to_slices(moved)
        return masks, {}


def open_source(folder: Path) -> ModelSource | StoredSource:
    """A run folder, or a folder of predictions.

    Raises:
        InputError: It is neither, or damaged.
    """
    return StoredSource(folder) if (folder / RESULT).is_file() else ModelSource(folder)


def name_runs(folders) -> dict[str, Path]:
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
    return {"/".join(folder.parts[-parts:]): folder for folder in folders}


def predicted_cases(
    sources: Mapping[str, ModelSource | StoredSource],
    shards: str | Path,
    split: str,
    on_study: Callable[[int, int], None] | None = None,
) -> Iterator[Case]:
    """The studies of a split with every run's predictions, one study in memory at a time.

    Args:
        sources: Where predictions come from, by run name.
        shards: A finished shards folder.
        split: Name of the split.
        on_study: Called with (studies done, studies in all).
    """
    total = len(read_dataset_info(shards).studies_of(split))
    for done, study in enumerate(read_studies(shards, split), 1):
        predicted = {run: source.predict(study) for run, source in sources.items()}
        yield Case(
            study=study.study,
            group=study.group,
            spacing_mm=study.grid.spacing_mm,
            affine=study.grid.canonical.affine,
            images={m: study.in_standard_unit(m) for m in study.images},
            references=study.masks,
            predictions={run: masks for run, (masks, _) in predicted.items() if masks},
            probabilities={run: p for run, (_, p) in predicted.items() if p},
        )
        if on_study:
            on_study(done, total)


def evaluate_runs(
    folders,
    shards,
    out,
    *,
    split="test",
    convention="isles22",
    consensus=None,
    overwrite=False,
    on_study=None,
):
    """Evaluate run folders, or folders of predictions, on a split of a shards folder.

    Args:
        folders: What `fit` or `predict` wrote.
        shards: A finished shards folder.
        out: Folder to write; see `strokeseg_tf.evaluation.evaluate.evaluate_cases`.
        split: Name of the split.
        convention: Key of `strokeseg_tf.evaluation.scores.CONVENTIONS`.
        consensus: Key of `strokeseg_tf.evaluation.consensus.CONSENSUS`, or None.
        overwrite: Replace `out` if it exists.
        on_study: Called with (studies done, studies in all).

    Returns:
        The content of `summary.json`.

    Raises:
        InputError: No such split, run or reference; a run that predicted none of its studies.
    """
    named = name_runs(folders)
    info = read_dataset_info(shards)
    known = [*info.splits, *info.views]
    studies = info.studies_of(split) if split in known else ()
    if not any(info.studies[study]["masks"] for study in studies):
        raise InputError(
            f"the split {split!r} of {shards} has no reference; splits: {', '.join(known)}"
        )
    check_free(out, overwrite, marker=SUMMARY)
    sources = {name: open_source(folder) for name, folder in named.items()}
    return evaluate_cases(
        predicted_cases(sources, shards, split, on_study),
        {name: source.variant for name, source in sources.items()},
        out,
        convention=convention,
        consensus=consensus,
        thresholds={name: source.threshold for name, source in sources.items()},
        weights={name: source.weights_sha256 for name, source in sources.items()},
        settings={
            "split": split,
            "phantom": all(study.startswith("phantom-") for study in studies),
            "data": {
                "counts": info.counts,
                "seed": info.seed,
                "shards": {name: info.shards[name] for name in info.shards_of(split)},
                "versions": info.versions,
            },
            "runs": {name: source.settings for name, source in sources.items()},
        },
        overwrite=overwrite,
    )
