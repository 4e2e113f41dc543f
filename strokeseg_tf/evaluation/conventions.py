"""Named conventions: what empty masks score, what one lesion is, and when it counts as found.

Public evaluators disagree on these, so every output states the description of the one it used.
"""

from dataclasses import dataclass
from math import nan


@dataclass(frozen=True)
class Convention:
    """Where evaluators differ; the rest is defined in `strokeseg_tf.evaluation.scores`.

    Attributes:
        name: key in `CONVENTIONS`.
        description: sentences for reports.
        dice_both_empty: Dice of an empty prediction on an empty reference.
        lesion_f1_both_empty: lesion-wise F1 in that same case.
        ratio_both_empty: precision and sensitivity in that same case.
        ratio_one_empty: precision of an empty prediction on a lesion, and sensitivity of a
            prediction where the reference is empty. (Dice and F1 are 0 there by formula.)
        connectivity: 6, 18 or 26 neighbours join voxels to one lesion.
        lesion_iou: a reference lesion and a predicted one are a match if they share a voxel and
            their voxels in common are at least this share of their union. 0: one shared voxel is
            enough, and a lesion may match several.

    Raises:
        ValueError: a connectivity that is none of the three, or a `lesion_iou` that is neither 0
            nor in [0.5, 1], from where on no lesion can match two.
    """

    name: str
    description: str
    dice_both_empty: float
    lesion_f1_both_empty: float
    ratio_both_empty: float
    ratio_one_empty: float
    connectivity: int = 26
    lesion_iou: float = 0.0

    def __post_init__(self):
        if self.connectivity not in (6, 18, 26):
            raise ValueError(f"connectivity must be 6, 18 or 26. Received {self.connectivity}.")
        # Two lesions that each hold half of a third are all of it, so they touch and are one.
        if self.lesion_iou != 0 and not 0.5 <= self.lesion_iou <= 1:
            raise ValueError(f"lesion_iou must be 0 or 0.5 to 1. Received {self.lesion_iou}.")


_ONE_VOXEL = (
    "Lesions are 26-connected; a reference lesion is found when one of its voxels is predicted, a "
    "predicted lesion is false when it touches no reference voxel."
)
_SURFACES = "HD95 and ASSD are undefined (left out of means) where either mask is empty."

CONVENTIONS: dict[str, Convention] = {
    "isles22": Convention(
        "isles22",
        "ISLES'22 challenge: reference and prediction both empty score 1 in Dice and lesion F1 "
        "(here in precision and sensitivity too, which the challenge does not rank), one of them "
        f"empty scores 0. {_ONE_VOXEL} {_SURFACES}",
        dice_both_empty=1.0,
        lesion_f1_both_empty=1.0,
        ratio_both_empty=1.0,
        ratio_one_empty=0.0,
    ),
    # Dice is that of all voxels, as the challenge documents it. panoptica, which it scored with,
    # gave 0 where no lesion matched in its releases 1.0 and the same as here in later ones.
    "isles24": Convention(
        "isles24",
        "ISLES'24 challenge: reference and prediction both empty score 1 in Dice and lesion F1 "
        "(here in precision and sensitivity too, which the challenge does not rank), one of them "
        "empty scores 0. Lesions are 26-connected; a reference lesion is found by the one "
        "predicted lesion whose intersection with it is at least half of their union, and every "
        f"predicted lesion that finds none is false. {_SURFACES}",
        dice_both_empty=1.0,
        lesion_f1_both_empty=1.0,
        ratio_both_empty=1.0,
        ratio_one_empty=0.0,
        lesion_iou=0.5,
    ),
    "paper": Convention(
        "paper",
        "As the paper's authors computed it: reference and prediction both empty score Dice 1 but "
        "precision 0 and sensitivity 0 (lesion F1, which they do not report, 1 as in ISLES'22); "
        f"one of them empty scores 0. {_ONE_VOXEL} {_SURFACES}",
        dice_both_empty=1.0,
        lesion_f1_both_empty=1.0,
        ratio_both_empty=0.0,
        ratio_one_empty=0.0,
    ),
    "nnunet": Convention(
        "nnunet",
        "As nnU-Net: every 0/0 is undefined and left out of means: Dice and lesion F1 where both "
        "masks are empty (0 where one is), precision where the prediction is, sensitivity where "
        "the reference is. "
        f"{_ONE_VOXEL} {_SURFACES}",
        dice_both_empty=nan,
        lesion_f1_both_empty=nan,
        ratio_both_empty=nan,
        ratio_one_empty=nan,
    ),
}


def find_convention(name: str) -> Convention:
    """Returns `CONVENTIONS[name]`; an unknown name raises a ValueError that lists the known."""
    if name not in CONVENTIONS:
        known = ", ".join(CONVENTIONS)
        raise ValueError(f"convention must be one of {known}. Received {name!r}.")
    return CONVENTIONS[name]
