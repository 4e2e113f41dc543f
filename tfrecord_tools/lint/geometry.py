"""Checks of how images lie in space: each yields (severity, file, message, remedy).

A message is the rest of a sentence that begins with the file.
"""

from collections.abc import Iterator

import numpy as np
from nibabel.spatialimages import HeaderDataError

from tfrecord_tools.grid import Grid
from tfrecord_tools.lint.images import Remark
from tfrecord_tools.reading import Reading, describe_difference
from tfrecord_tools.study_files import MODALITIES

#: Distance of slices over size of a pixel; 7.2 over 0.83 mm is the paper's utmost.
MAX_ANISOTROPY = 10

#: Sides of a pixel differ by no more than this share.
MAX_PIXEL_DIFFERENCE = 0.05

#: Sides of a slice differ by no more than this share; 300 x 288 is common.
MAX_STRETCH = 0.15

#: In mm: of the slices' distance, of a pixel's side, of the field of view.
SLICE_MM, PIXEL_MM, FIELD_MM = (0.3, 15), (0.2, 8), (100, 400)


def check_grids(reading: Reading) -> Iterator[Remark]:
    """ADC lies on another grid than DWI."""
    adc, dwi = (reading.volumes.get(m) for m in MODALITIES)
    if dwi and "adc" in reading.images and reading.adc_grid and not adc.grid.covers(dwi.grid):
        message = (
            f"lies on another grid than DWI ({describe_difference(adc.grid, dwi.grid)}), "
            "so it will be resampled to it"
        )
        yield "warning", adc.path, message, "check that both show the same head in the same place"


def _placed_files(reading: Reading):
    """Every NIfTI file of the study, once."""
    volumes = {v.path: v for v in (*reading.volumes.values(), *reading.mask_volumes.values())}
    return [volume for volume in volumes.values() if volume.header]


def check_forms(reading: Reading) -> Iterator[Remark]:
    """The header places the image twice, and differently."""
    for volume in _placed_files(reading):
        header, shape = volume.header, volume.grid.shape
        if header["qform_code"] > 0 and header["sform_code"] > 0:
            try:
                sform, qform = header.get_sform(), header.get_qform()
                same = np.allclose(sform, qform, atol=1e-4, rtol=0) or (
                    Grid(shape, sform).agrees(Grid(shape, qform))
                )
            except (ValueError, HeaderDataError):  # A qform that is no rotation.
                same = False
            if not same:
                message = "is placed in two ways: its qform and its sform differ"
                remedy = "set the code of the wrong one to 0 in the header (sform is used here)"
                yield "warning", volume.path, message, remedy


def check_orientation(reading: Reading) -> Iterator[Remark]:
    """The header does not say how the image lies."""
    for volume in _placed_files(reading):
        if volume.header["qform_code"] == volume.header["sform_code"] == 0:
            message = "does not say how it lies (qform and sform codes are 0): left may be right"
            yield (
                "warning",
                volume.path,
                message,
                "convert it from DICOM again, with its orientation",
            )


def check_spacing(reading: Reading) -> Iterator[Remark]:
    """Voxels of an implausible size."""
    for volume in reading.volumes.values():
        slices, *pixel = volume.grid.spacing_mm
        good = SLICE_MM[0] <= slices <= SLICE_MM[1]
        if not good or min(pixel) < PIXEL_MM[0] or max(pixel) > PIXEL_MM[1]:
            message = f"has voxels of {_by((*pixel, slices))} mm"
            yield "warning", volume.path, message, "correct the spacing in its header"


def check_field_of_view(reading: Reading) -> Iterator[Remark]:
    """Slices too small or too large for a head."""
    for modality, volume in reading.volumes.items():
        field = _field_mm(volume.grid)
        if min(field) < FIELD_MM[0] or max(field) > FIELD_MM[1]:
            message = f"shows {_by(field)} mm in a slice, which is no view of a head"
            yield "warning", volume.path, message, f"check the spacing and what {modality} shows"


def _field_mm(grid: Grid) -> tuple[float, float]:
    """Height and width of a slice."""
    height, width, _ = grid.canonical.shape
    _, height_mm, width_mm = grid.spacing_mm
    return height * height_mm, width * width_mm


def _by(lengths_mm) -> str:
    return " x ".join(f"{length:.3g}" for length in lengths_mm)


def check_anisotropy(reading: Reading) -> Iterator[Remark]:
    """Slices far thicker than pixels are wide."""
    for volume in reading.volumes.values():
        slices, *pixel = volume.grid.spacing_mm
        if slices > MAX_ANISOTROPY * min(pixel):
            message = f"has slices {slices:.3g} mm apart, with pixels of {_by(pixel)} mm"
            yield "warning", volume.path, message, "check that no slice is missing"


def check_pixels(reading: Reading) -> Iterator[Remark]:
    """Pixels that are not square."""
    for volume in reading.volumes.values():
        _, *pixel = volume.grid.spacing_mm
        if max(pixel) > (1 + MAX_PIXEL_DIFFERENCE) * min(pixel):
            message = f"has pixels of {_by(pixel)} mm, which are not square"
            yield "warning", volume.path, message, "check its spacing, or resample it"


def check_stretched(reading: Reading) -> Iterator[Remark]:
    """Slices that a network, whose input is square, sees stretched."""
    for volume in reading.volumes.values():
        field = _field_mm(volume.grid)
        if max(field) > (1 + MAX_STRETCH) * min(field):
            message = f"shows {_by(field)} mm in a slice, and a network sees that as a square"
            yield "note", volume.path, message, "pad it if most of your studies are square"


def check_slices(reading: Reading) -> Iterator[Remark]:
    """A volume of one slice."""
    for volume in reading.volumes.values():
        if volume.grid.shape[volume.grid.slice_axis] == 1:
            message = "has a single slice"
            yield "warning", volume.path, message, "give the whole volume if there is one"
