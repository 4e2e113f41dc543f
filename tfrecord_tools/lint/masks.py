"""Checks of a study's masks: each yields (severity, file, message, remedy).

A message is the rest of a sentence that begins with the file.
"""

from collections.abc import Iterator

import numpy as np

from tfrecord_tools.lint.images import HEAD, NO_NEED, Remark
from tfrecord_tools.reading import Reading

#: How far a voxel of a mask may lie from 0 and 1 and still mean them.
EXACT = 1e-3

#: More levels than this are an image, not labels.
MOST_LABELS = 16

#: Share of a lesion outside the head, and of the brain inside a lesion, that raise doubt.
OUTSIDE, COVERED = 0.1, 0.6

#: A lesion of fewer voxels is too small to say where it fits.
FEWEST_VOXELS = 10

#: Direction in which a lesion differs from the brain, and by how many (robust) standard deviations
#: its mirror image must and itself must not, for it to be mirrored.
LESION_CONTRAST = {"dwi": (1, 1.5, 0.75), "adc": (-1, 1.2, 0.2)}


def check_any_mask(reading: Reading) -> Iterator[Remark]:
    """Nobody has drawn on the study."""
    if not reading.files.masks:
        path = next(iter(reading.files.images.values()))
        yield "note", path, "has no mask", "add one to train or to evaluate on this study"


def _files(reading: Reading, volumes):
    """The volumes by file, since one file may be the mask of both modalities."""
    return {reading.files.masks[key]: volume for key, volume in volumes.items()}.items()


def check_mask_values(reading: Reading) -> Iterator[Remark]:
    """Values other than 0 and 1."""
    for path, volume in _files(reading, reading.mask_volumes):
        voxels = volume.voxels.ravel(order="K")
        values = np.unique(voxels[voxels != 0])
        if values.size == 0 or values.tolist() == [1]:
            continue
        low, high = float(values[0]), float(values[-1])
        shown = f"{low:.7g}" if low == high else f"{low:.3g} to {high:.3g}"
        if np.minimum(abs(values), abs(values - 1)).max() <= EXACT:
            message = f"holds {shown} for 1, as scaled files do"
            yield "note", path, message, f"{NO_NEED}: voxels above 0.5 are lesion"
        elif values.size == 1 and high > 0.5:
            message = f"marks the lesion with {shown}, not with 1"
            yield "note", path, message, f"{NO_NEED}: voxels above 0.5 are lesion"
        elif (values == np.rint(values)).all() and low > 0 and values.size <= MOST_LABELS:
            message = f"holds {values.size} labels ({shown}), which will all count as lesion"
            yield "warning", path, message, "keep one label if the others are no acute lesion"
        elif low >= -0.5 and high <= 1.5:
            message = f"holds probabilities ({shown}); voxels above 0.5 will count as lesion"
            yield "warning", path, message, "cut it yourself if another threshold is meant"
        else:
            message = f"holds {values.size} values ({shown}), so is no mask"
            yield "error", path, message, "give a mask of 0 and 1"


def check_mask_empty(reading: Reading) -> Iterator[Remark]:
    """An empty mask: against what else is known of the study, or what makes it a control."""
    group = reading.files.group
    any_lesion = any(mask.any() for mask in reading.masks.values())
    for path, mask in _files(reading, reading.masks):
        if mask.any() or (group == "control" and not any_lesion):
            continue
        if any_lesion or group == "stroke":
            why = "another mask of the study has a lesion" if any_lesion else "it is of a stroke"
            yield "warning", path, f"is empty although {why}", "check that nothing was lost"
        else:
            message = "is empty, as all masks of the study, which so counts as a control"
            yield "note", path, message, "say 'stroke' or 'control' in a table, column 'group'"


def check_control(reading: Reading) -> Iterator[Remark]:
    """A lesion in a control."""
    for path, mask in _files(reading, reading.masks):
        if reading.files.group == "control" and mask.any():
            message = "has a lesion although the study is a control"
            yield "warning", path, message, "correct the group or the mask"


def check_mask_outside(reading: Reading) -> Iterator[Remark]:
    """A lesion that lies outside the head."""
    for path, mask in _files(reading, reading.masks):
        share = _share_outside(mask, reading)
        if share > OUTSIDE:
            message = f"lies outside the head with {share:.0%} of its voxels"
            yield (
                "warning",
                path,
                message,
                "check that it belongs to this study and is not mirrored",
            )


def _share_outside(mask: np.ndarray, reading: Reading) -> float:
    """Share of a mask beyond the first and the last voxel of the head in its row and column.

    So the dark inside of a head is no outside.
    """
    count = np.count_nonzero(mask)
    if not count:
        return 0.0
    main = reading.images.get("dwi", reading.images.get("adc"))
    touched = mask.any(axis=(1, 2))
    mask, image = mask[touched], main[touched]
    head = image > HEAD * reading.brightness
    if np.count_nonzero(mask & ~head) <= OUTSIDE * count:
        return 0.0
    for axis in (1, 2):
        before = np.logical_or.accumulate(head, axis)
        after = np.flip(np.logical_or.accumulate(np.flip(head, axis), axis), axis)
        mask = mask & before & after
    return 1 - np.count_nonzero(mask) / count


def check_mask_large(reading: Reading) -> Iterator[Remark]:
    """A lesion that covers most of the brain."""
    for path, mask in _files(reading, reading.masks):
        covered = np.count_nonzero(mask & reading.brain) / reading.brain_size
        if covered > COVERED:
            message = f"covers {covered:.0%} of the brain"
            yield "warning", path, message, "check that it is no brain mask and not inverted"


def check_mask_mirrored(reading: Reading) -> Iterator[Remark]:
    """A lesion that is seen on the other side of the head."""
    modality = "dwi" if "dwi" in reading.images else "adc"
    image = reading.images[modality]
    tissue = image[::8][reading.brain[::8]].astype(np.float64)
    if not tissue.size:
        return
    median = float(np.median(tissue))
    deviation = 1.4826 * float(np.median(np.abs(tissue - median)))
    sign, wanted, allowed = LESION_CONTRAST[modality]
    for path, mask in _files(reading, reading.masks):
        here, there = (sign * (level - median) for level in _levels(mask, image))
        if there >= wanted * deviation > 0 and here <= allowed * deviation:
            message = f"fits {modality.upper()} better when turned left to right"
            remedy = "look at both: the voxels or the affine of one of them are mirrored"
            yield "warning", path, message, remedy


def _levels(mask: np.ndarray, image: np.ndarray) -> tuple[float, float]:
    """Means of an image over a lesion and over its mirror image; NaN where it tells nothing."""
    touched = mask.any(axis=(1, 2))
    mask, image = mask[touched], image[touched]
    one_sided = mask & ~np.flip(mask, 1)
    size = np.count_nonzero(one_sided)
    if size < FEWEST_VOXELS or 2 * size < np.count_nonzero(mask):
        return np.nan, np.nan
    sides = one_sided, np.flip(one_sided, 1)
    return tuple(float(image[side].mean(dtype=np.float64)) for side in sides)
