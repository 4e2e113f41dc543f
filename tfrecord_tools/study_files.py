"""`StudyFiles`: which files make up a study."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from tfrecord_tools.errors import InputError

MODALITIES = ("adc", "dwi")
GROUPS = ("stroke", "control")


@dataclasses.dataclass(frozen=True)
class StudyFiles:
    """The files of one study.

    Attributes:
        study: Identifier, unique in its cohort.
        images: Image file by modality ("adc", "dwi"); at least one.
        masks: Lesion mask file by (rater, modality).
        patient: Identifier of the patient; studies of one patient share a split.
        group: "stroke", "control", or "" to let the masks decide.
        split: The split a table asks for, or "".
    """

    study: str
    images: Mapping[str, Path]
    masks: Mapping[tuple[str, str], Path] = dataclasses.field(default_factory=dict)
    patient: str = ""
    group: str = ""
    split: str = ""

    def __post_init__(self):
        if not self.study:
            raise InputError("a study has no id; fill in the column 'study'")
        for name in (self.study, self.patient, *(rater for rater, _ in self.masks)):
            if not name.isprintable():
                raise InputError(f"{name!a} holds unprintable characters; rename the study")
        if not self.images:
            raise InputError(f"study {self.study} has neither an ADC nor a DWI image; add one")
        if self.group not in ("", *GROUPS):
            raise InputError(
                f"study {self.study}: unknown group {self.group!r}; use one of {', '.join(GROUPS)}"
            )
        if not self.patient:
            object.__setattr__(self, "patient", self.study)

    def without_masks(self) -> "StudyFiles":
        """The same study as if nobody had drawn on it."""
        return dataclasses.replace(self, masks={})
