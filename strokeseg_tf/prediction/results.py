"""What stands on disk of a prediction: the files of a study, and the account of all of them."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from strokeseg_tf.prediction.study import Prediction
from tfrecord_tools.errors import InputError
from tfrecord_tools.names import file_name
from tfrecord_tools.nifti import write_like
from tfrecord_tools.study_files import StudyFiles

#: What a predictions folder says of itself.
RESULT = "predictions.json"


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What is written of each study beside its masks, and what a mask holds.

    Attributes:
        probabilities: `{study}_{modality}_probability.nii.gz`.
        uncertainty: `{study}_{modality}_uncertainty.nii.gz`, of a predictor that predicts
            repeatedly.
        figures: `{study}.png`, all slices with contours.
        min_lesion_ml: Smaller lesions are left out of the masks.
    """

    probabilities: bool = False
    uncertainty: bool = False
    figures: bool = False
    min_lesion_ml: float = 0.0

    def __post_init__(self):
        if not 0 <= self.min_lesion_ml < float("inf"):
            raise InputError(
                f"--min-lesion-ml must be a volume from 0 on, received {self.min_lesion_ml}"
            )


def write_images(
    predictions: Mapping[str, Prediction], files: StudyFiles, folder: Path, wanted: Wanted
) -> None:
    """Write the NIfTI files of a study."""
    for modality, prediction in predictions.items():
        stem, source = f"{file_name(files.study)}_{modality}", files.images[modality]
        write_like(folder / f"{stem}_mask.nii.gz", prediction.mask, source)
        if wanted.probabilities:
            probability = prediction.probability.astype(np.float32)
            write_like(folder / f"{stem}_probability.nii.gz", probability, source)
        if prediction.uncertainty is not None:
            spread = prediction.uncertainty.astype(np.float32)
            write_like(folder / f"{stem}_uncertainty.nii.gz", spread, source)


class Account:
    """`predictions.json` as it grows.

    Args:
        heading: What all studies have in common: model, version, threshold, settings.
        order: Ids of all studies, in the order in which they are told.
        studies: Those that are finished already.
    """

    def __init__(self, heading: Mapping, order, studies: Mapping[str, dict]):
        self._heading, self._order = dict(heading), list(order)
        self.studies, self.failed = dict(studies), {}

    def content(self, *, finished: bool) -> dict:
        """What the file holds."""
        place = {name: i for i, name in enumerate(self._order)}
        names = [*(n for n in self.studies if n not in self._order), *self._order]
        return {
            **self._heading,
            "intended_use": "Research only. Not a medical device.",
            "finished": finished,
            "studies": {name: self.studies[name] for name in names if name in self.studies},
            "failed": {
                name: self.failed[name]
                for name in sorted(self.failed, key=lambda name: place.get(name, -1))
            },
        }

    def text(self, *, finished: bool) -> str:
        """The content as JSON."""
        return json.dumps(self.content(finished=finished), indent=2) + "\n"


def read_finished(folder: Path, heading: Mapping) -> dict[str, dict]:
    """The studies of an earlier prediction that are finished and whole, to go on from.

    Args:
        folder: What `predict` wrote; nothing is finished where there is no `predictions.json`.
        heading: Of the prediction that goes on.

    Raises:
        InputError: The file is damaged, or was written with other settings.
    """
    path = folder / RESULT
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        studies = {
            study: entry
            for study, entry in content["studies"].items()
            if all((folder / name).is_file() for name in entry["files"])
        }
        different = [f"{k} {content.get(k)} then, {v} now" for k, v in heading.items()
                     if content.get(k) != v]  # fmt: skip
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{path} is damaged ({error!r}); predict anew with --overwrite") from error
    if different:
        raise InputError(
            f"{folder} was predicted with other settings ({'; '.join(different)}); resume it with "
            "the same ones, or pass --overwrite"
        )
    return studies
