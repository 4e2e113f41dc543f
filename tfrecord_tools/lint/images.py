"""Checks of a study's images: each yields (severity, file, message, remedy).

A message is the rest of a sentence that begins with the file.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tfrecord_tools.adc_unit import ADC_UNITS, unit_of_median
from tfrecord_tools.diffusion import find_shell, read_bvalues
from tfrecord_tools.image_files import stem
from tfrecord_tools.reading import Reading
from tfrecord_tools.study_files import MODALITIES

Remark = tuple[str, Path, str, str]

#: Medians of ADC over the brain, in 1e-3 mm2/s, that need no second look.
USUAL_MEDIAN = (0.55, 1.6)

#: b-values, in s/mm2, of images that look like the paper's b = 1000.
USUAL_B_VALUE = (800, 1200)

#: Range of an image over the 99th percentile of the brain; about 5 in stroke studies.
MAX_RANGE = 12

#: Share of the brain at the largest value from which an image is cut off.
SATURATED = {"adc": 0.01, "dwi": 0.005}

#: ADC of fluid, in 1e-3 mm2/s, is above this: a map that is cut off below has lost tissue.
FLUID_ADC = 2.5

#: Share of the voxels below 0 that interpolation does not explain.
MANY_NEGATIVE = 0.05

#: Correlation of ADC and DWI, from -0.5 to -0.9 in one study, that no mirrored head has.
WELL_CORRELATED = -0.55

#: Correlation of ADC and DWI that a mirrored ADC must reach, and by how much it must be better.
MIRRORED_CORRELATION, MIRRORED_GAIN = -0.3, 0.15

#: Correlation of ADC and DWI that no diffusion-weighted image has.
POSITIVE_CORRELATION = 0.1

#: Axes of [slice, height, width], which run towards superior, left, anterior.
MIRRORS = {"left to right": 1, "front to back": 2, "upside down": 0}

#: Share of the brain's brightness above which a voxel is in the head.
HEAD = 0.3

#: Where nothing has to be done.
NO_NEED = "nothing to do"


def check_modalities(reading: Reading) -> Iterator[Remark]:
    """One modality is missing."""
    images = reading.files.images
    for modality in MODALITIES:
        if modality not in images:
            (other, path), *_ = images.items()
            remedy = f"use it with --variant unimodal --modality {other}"
            yield "note", path, f"has no {modality.upper()} beside it", remedy


def check_same_image(reading: Reading) -> Iterator[Remark]:
    """ADC and DWI are one image."""
    adc, dwi = (reading.volumes.get(m) for m in MODALITIES)
    if adc and dwi and adc.range == dwi.range and np.array_equal(adc.voxels, dwi.voxels):
        message = f"holds the same voxels as {dwi.path}"
        yield "error", adc.path, message, "name an ADC map and a DWI image"


def check_adc_unit(reading: Reading) -> Iterator[Remark]:
    """The unit of ADC: inferred, unusual, or against what the brain's median says."""
    if reading.adc_scale is None:
        return
    path = reading.volumes["adc"].path
    median = reading.median_adc
    unit = next(u for u, factor in ADC_UNITS.items() if factor == reading.adc_scale)
    likely = unit_of_median(median)
    low, high = USUAL_MEDIAN
    if likely != unit:
        speaks = f"speaks for {likely}" if likely else "fits no unit"
        message = f"is said to be in {unit}, but its median of {median:g} over the brain {speaks}"
        yield "warning", path, message, "check --adc-unit and that this is an ADC map"
    elif not low <= median * reading.adc_scale <= high:
        standard = median * reading.adc_scale
        message = f"has a median ADC of {standard:.2f}e-3 mm2/s over the brain; 0.7 to 1.2 is usual"
        yield "warning", path, message, "check that this is an ADC map of a brain, not rescaled"
    elif unit != "1e-3":
        message = f"is in {unit}{' mm2/s' * (unit == '1e-6')} (median over the brain {median:.3g})"
        yield "note", path, message, f"{NO_NEED}: it is converted to 1e-3 mm2/s"


def check_b_value(reading: Reading) -> Iterator[Remark]:
    """DWI was not measured at about b = 1000."""
    dwi = reading.volumes.get("dwi")
    if not dwi:
        return
    try:
        b_value, said_by = _b_value(dwi.path)
    except ValueError as error:
        message = f"has no readable b-value beside it ({error})"
        yield "warning", dwi.path, message, "write its .bval or .json file again, or remove it"
        return
    low, high = USUAL_B_VALUE
    if b_value is None or low <= b_value <= high:
        return
    if b_value < 50:
        message = f"has b = {b_value:g} s/mm2 by {said_by}, so is not diffusion-weighted"
        yield "warning", dwi.path, message, "give the b = 1000 image instead"
    else:
        message = f"has b = {b_value:g} s/mm2 by {said_by}; {low} to {high} is expected"
        remedy = "give the b = 1000 image, or train on images of this b-value"
        yield "warning", dwi.path, message, remedy


def _b_value(path: Path) -> tuple[float | None, str]:
    """The b-value of what is used of an image, and the file beside it that says so."""
    bvalues = read_bvalues(path)
    if bvalues is not None:
        shell = find_shell(bvalues)
        used = bvalues[shell].mean() if shell.size else bvalues.max(initial=0)
        return float(used), f"{stem(path)}.bval"
    sidecar = path.with_name(f"{stem(path)}.json")
    if sidecar.is_file():
        content = json.loads(sidecar.read_text(encoding="utf-8"))
        said = content.get("DiffusionBValue") if isinstance(content, dict) else None
        return float(said) if isinstance(said, int | float | str) else None, sidecar.name
    return None, ""


def check_four_dimensional(reading: Reading) -> Iterator[Remark]:
    """One volume was made of several."""
    for volume in reading.volumes.values():
        shape = volume.header.get_data_shape()[3:] if volume.header else ()
        if np.prod(shape) > 1:
            message = f"holds {np.prod(shape):.0f} volumes; those with b nearest 1000 are used"
            yield "note", volume.path, message, f"{NO_NEED} if its .bval file is right"


def check_contrast(reading: Reading) -> Iterator[Remark]:
    """DWI is bright where ADC is high, as no diffusion-weighted image is."""
    # Beyond that they are one image, which is another finding.
    if len(reading.images) == 2 and POSITIVE_CORRELATION < _correlation(reading) < 0.999:
        message = "is bright where ADC is high, as an image at b = 0 is"
        remedy = "check that it is the b = 1000 image of this study"
        yield "warning", reading.volumes["dwi"].path, message, remedy


def check_mirrored(reading: Reading) -> Iterator[Remark]:
    """ADC fits DWI better when mirrored.

    In one head ADC and DWI are strongly anticorrelated, voxel by voxel: fluid is bright in one
    and dark in the other. A mirrored head loses that.
    """
    if len(reading.images) < 2:
        return
    as_it_is = _correlation(reading)
    if as_it_is < WELL_CORRELATED:
        return
    for words, axis in MIRRORS.items():
        mirrored = _correlation(reading, axis)
        if mirrored < MIRRORED_CORRELATION and mirrored < as_it_is - MIRRORED_GAIN:
            message = f"fits DWI better when turned {words}"
            remedy = "look at both: the voxels or the affine of one of them are mirrored"
            yield "warning", reading.volumes["adc"].path, message, remedy
            return


def _correlation(reading: Reading, mirrored_along=()) -> float:
    """Correlation of ADC, as it is or mirrored, and DWI inside the head; 0 where that is small."""
    adc, dwi = (reading.images[m] for m in MODALITIES)
    some = slice(None, None, max(1, len(dwi) // 6)), slice(None, None, 2), slice(None, None, 2)
    adc, dwi = np.flip(adc, mirrored_along)[some], dwi[some]
    inside = (dwi > HEAD * reading.brightness) & (adc != 0)
    one, other = (image[inside].astype(np.float64) for image in (adc, dwi))
    if one.size < 200 or one.std() == 0 or other.std() == 0:
        return 0.0
    return float(np.corrcoef(one, other)[0, 1])


def check_saturated(reading: Reading) -> Iterator[Remark]:
    """Many voxels at the largest value."""
    for modality, image in reading.images.items():
        top = reading.volumes[modality].range[1]
        if modality == "adc" and top * (reading.adc_scale or np.inf) >= FLUID_ADC:
            continue
        share = np.count_nonzero(image == top) / reading.brain_size
        if share > SATURATED[modality]:
            message = f"is cut off at {top:g}, where {share:.1%} of the brain lies"
            remedy = "export it again without a window or an 8-bit format"
            yield "warning", reading.volumes[modality].path, message, remedy


def check_outliers(reading: Reading) -> Iterator[Remark]:
    """A few extreme voxels that leave no contrast when the volume is scaled to [0, 1]."""
    for modality, image in reading.images.items():
        tissue = image[::8][reading.brain[::8]]
        usual = float(np.percentile(tissue, 99)) if tissue.size else 0.0
        low, high = reading.volumes[modality].range
        if 0 < MAX_RANGE * usual < high - low:
            message = (
                f"holds {low:.4g} to {high:.4g} although the brain ends at {usual:.4g}, so that "
                "scaling to [0, 1] leaves it little contrast"
            )
            yield "warning", reading.volumes[modality].path, message, "cut off its extreme voxels"


def check_negative(reading: Reading) -> Iterator[Remark]:
    """Voxels below 0, few or many."""
    for volume in reading.volumes.values():
        low = volume.range[0]
        if low >= 0:
            continue
        count = np.count_nonzero(volume.voxels < 0)
        share = count / volume.voxels.size
        message = f"has {count} voxels below 0 (down to {low:.3g})"
        if share > MANY_NEGATIVE:
            message += f", {share:.0%} of all"
            yield "warning", volume.path, message, "give the image as measured, not standardised"
        else:
            yield "note", volume.path, message, f"{NO_NEED}: interpolation leaves some"
