"""Whether a study looks like those that a model has learnt from.

A run keeps the range of a few plain features over its training studies (`training_data.json`).
A study is unlike them where a feature lies more than a factor beyond that range.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from tfrecord_tools.grid import Grid

#: Feature of the grid, in mm, and of the normalised voxels -> the factor beyond the range of the
#: training studies from which it is unlike them.
GRID_FACTOR, INTENSITY_FACTOR = 1.25, 1.5


def grid_features(shape, grid: Grid) -> dict[str, float]:
    """Size and spacing of a study, in mm.

    Args:
        shape: Of its volumes: slices, height, width.
        grid: Their grid.
    """
    slices, height, width = shape
    distance, *pixel = grid.spacing_mm
    return {
        "slice distance (mm)": distance,
        "pixel size (mm)": float(np.mean(pixel)),
        "coverage (mm)": slices * distance,
        "field of view (mm)": max(height * pixel[0], width * pixel[1]),
    }


def intensity_features(modality: str, mean: float, mean_square: float) -> dict[str, float]:
    """Mean and standard deviation of a volume, as the network sees it.

    Args:
        modality: Whose.
        mean: Over the volume's voxels, normalised to [0, 1] by its smallest and largest.
        mean_square: Mean of their squares.
    """
    deviation = max(mean_square - mean**2, 0) ** 0.5
    return {f"{modality} mean": mean, f"{modality} deviation": deviation}


def study_features(images: Mapping[str, np.ndarray], grid: Grid) -> dict[str, float]:
    """All features of a study in memory.

    Args:
        images: float32 `(slices, height, width)` by modality, in any unit.
        grid: Their grid.
    """
    features = grid_features(next(iter(images.values())).shape, grid)
    for modality, volume in images.items():
        low, high = float(volume.min()), float(volume.max())
        scaled = (volume - low) / ((high - low) or 1)
        mean, mean_square = scaled.mean(dtype=np.float64), np.square(scaled).mean(dtype=np.float64)
        features |= intensity_features(modality, float(mean), float(mean_square))
    return features


def summarise(features: Iterable[Mapping[str, float]]) -> dict:
    """`{"studies": ..., "features": {name: [lowest, highest]}}` of the features of studies."""
    features = list(features)
    ranges = {
        name: [min(f[name] for f in features), max(f[name] for f in features)]
        for name in features[0]
    }
    return {"studies": len(features), "features": ranges}


def check_ranges(training: Mapping) -> None:
    """Refuse what `summarise` cannot have written.

    Raises:
        ValueError, TypeError, KeyError, AttributeError: It is that.
    """
    if not all(low <= high for low, high in training["features"].values()):
        raise ValueError("a range ends before it begins")


def unfamiliar(features: Mapping[str, float], training: Mapping) -> dict[str, str]:
    """What of a study is unlike the training studies: a few words by feature.

    Args:
        features: Of the study; those that training did not record are left out.
        training: See `summarise`.
    """
    found = {}
    for name, value in features.items():
        low, high = training["features"].get(name, (value, value))
        factor = GRID_FACTOR if name.endswith("(mm)") else INTENSITY_FACTOR
        if not low / factor <= value <= high * factor:
            found[name] = f"{value:.3g}, in training {low:.3g} to {high:.3g}"
    return found


def narrowest(trainings: Sequence[Mapping]) -> dict | None:
    """The ranges that lie within those of all models of an ensemble; None where none has any."""
    if not trainings:
        return None
    names = dict.fromkeys(name for training in trainings for name in training["features"])
    ranges = {name: [t["features"][name] for t in trainings if name in t["features"]]
              for name in names}  # fmt: skip
    return {
        "studies": min(training["studies"] for training in trainings),
        "features": {
            name: [max(low for low, _ in ends), min(high for _, high in ends)]
            for name, ends in ranges.items()
        },
    }
