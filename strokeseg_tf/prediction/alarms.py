"""What a person should look at before a prediction is believed."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from strokeseg_tf.prediction.familiarity import study_features, unfamiliar
from strokeseg_tf.prediction.study import Prediction
from tfrecord_tools.adc_unit import find_brain
from tfrecord_tools.study import Study

#: More than this is implausible: infarcts of a whole hemisphere have about 300 ml.
LARGEST_ML = 400.0

#: So is more than this share of the brain, for a child's head or a part of one.
LARGEST_SHARE = 1 / 3


@dataclasses.dataclass(frozen=True)
class Alarm:
    """One reason to look.

    Attributes:
        code: "empty", "large", or "unlike training".
        what: The modality, or the feature that is unlike.
        text: What was found; "" for nothing.
    """

    code: str
    what: str
    text: str = ""


def find_alarms(
    study: Study, predictions: Mapping[str, Prediction], training: Mapping | None
) -> list[Alarm]:
    """The alarms of a study.

    Args:
        study: The study.
        predictions: Its predictions by modality.
        training: What the model's training studies look like, or None where nobody knows.
    """
    alarms = []
    brain_ml = float(np.count_nonzero(find_brain(study.images))) * study.grid.voxel_ml
    for modality, prediction in predictions.items():
        volume = prediction.volume_ml
        if not prediction.lesions:
            alarms.append(Alarm("empty", modality))
        elif volume > LARGEST_ML:
            alarms.append(Alarm("large", modality, f"{volume:.0f} ml"))
        elif volume > LARGEST_SHARE * brain_ml:
            alarms.append(Alarm("large", modality, f"{volume / brain_ml:.0%} of the brain"))
    if training:
        images = {m: study.images[m] for m in predictions if m in study.images}
        unlike = unfamiliar(study_features(images, study.grid), training)
        alarms += [Alarm("unlike training", *found) for found in unlike.items()]
    return alarms


def tell_alarms(alarms: Mapping[str, list[Alarm]]) -> list[str]:
    """A sentence for each kind of alarm, with the studies it is about.

    Args:
        alarms: By study.
    """
    found: dict[tuple[str, str], dict[str, str]] = {}
    for study, its in alarms.items():
        for alarm in its:
            found.setdefault((alarm.code, alarm.what), {})[study] = alarm.text
    return [f"{_title(*kind)}: {_names(studies)}" for kind, studies in found.items()]


def _title(code: str, what: str) -> str:
    if code == "empty":
        return f"nothing is marked on {what.upper()}"
    if code == "large":
        return f"implausibly much is marked on {what.upper()}"
    return f"unlike the training studies in {what}"


def _names(studies: Mapping[str, str]) -> str:
    shown = [f"{s} ({text})" if text else s for s, text in list(studies.items())[:3]]
    return ", ".join(shown) + (f" and {len(studies) - 3} more" if len(studies) > 3 else "")
