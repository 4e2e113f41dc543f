"""A study as evaluation wants it: images, references and predictions on one grid."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Case:
    """A study with its masks, all arrays [slice, x, y] on one grid.

    Attributes:
        study: study id.
        group: "stroke" or "control".
        spacing_mm: voxel size in mm in array order: slice, x, y.
        affine: 4 x 4, voxel (x, y, slice) to RAS mm.
        images: float32 by modality.
        references: bool by (rater, modality).
        predictions: bool by run, then by modality.
        probabilities: float32 in [0, 1] by run, then by modality, of the runs that have them.

    Raises:
        ValueError: the arrays differ in shape.
    """

    study: str
    group: str
    spacing_mm: tuple[float, float, float]
    affine: np.ndarray
    images: Mapping[str, np.ndarray]
    references: Mapping[tuple[str, str], np.ndarray]
    predictions: Mapping[str, Mapping[str, np.ndarray]]
    probabilities: Mapping[str, Mapping[str, np.ndarray]] = field(default_factory=dict)

    def __post_init__(self):
        arrays = [*self.images.values(), *self.references.values()]
        for by_run in (self.predictions, self.probabilities):
            arrays += [array for by_modality in by_run.values() for array in by_modality.values()]
        shapes = {array.shape for array in arrays}
        if len(shapes) > 1:
            raise ValueError(
                f"images and masks of study {self.study} must share one grid. "
                f"Received shapes {', '.join(map(str, sorted(shapes)))}."
            )
