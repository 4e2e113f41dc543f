"""NIfTI files: read with care, written on the grid of the image they belong to."""

import gzip
import zlib
from pathlib import Path

import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from tfrecord_tools.errors import InputError
from tfrecord_tools.grid import Grid

#: A header that declares more voxels than this is refused before any is read.
MAX_VOXELS = 2**29

#: Header fields that place an image in space; nothing else of a source's header is copied, since
#: the free-text ones may name a patient.
PLACEMENT = (
    *("pixdim", "xyzt_units", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d"),
    *("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"),
)


def read_volume(path: Path) -> tuple[np.ndarray, Grid]:
    """Read a 3-D image as float32 in file order; trailing axes of length 1 are dropped.

    Raises:
        InputError: The file is missing, damaged, not an image, too large, or not 3-D.
    """
    try:
        image = nibabel.load(path)
        shape = image.shape
        while len(shape) > 3 and shape[-1] == 1:
            shape = shape[:-1]
        if len(shape) != 3 or 0 in shape:
            raise InputError(
                f"{path} is {len(image.shape)}-D with shape {image.shape}, not one 3-D volume; "
                "extract the volume that is wanted (b = 1000 for DWI) into a file of its own"
            )
        if np.prod(shape, dtype=np.float64) > MAX_VOXELS:
            raise InputError(f"{path} declares {shape} voxels, too many to be a study; check it")
        # Scaled in float64 and rounded once, so the result is the float32 nearest the source.
        volume = np.asanyarray(image.dataobj).reshape(shape).astype(np.float32)
        affine = np.asarray(image.affine, np.float64)
    except (OSError, EOFError, zlib.error, ImageFileError, HeaderDataError) as error:
        raise InputError(_unreadable(path, error)) from error
    except (ValueError, TypeError, OverflowError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(_unreadable(path, error)) from error
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise InputError(f"{path} has an affine that places no voxel; repair its header")
    return volume, Grid(shape, affine)


def _unreadable(path: Path, error: Exception) -> str:
    reason = " ".join(str(error).split()) or type(error).__name__
    return f"{path} cannot be read ({reason[:120]}); restore or convert the file again"


def read_mask(path: Path) -> tuple[np.ndarray, Grid]:
    """Read a mask as bool in file order.

    Voxels above 0.5 are lesion: a mask stored with a scale slope reads as 0.99999999977, which
    `== 1` and a cast to integers would lose.
    """
    volume, grid = read_volume(path)
    if not np.isfinite(volume).all():
        raise InputError(f"{path} has NaN or infinite voxels; a mask holds 0 and 1")
    return volume > 0.5, grid


def write_volume(path: Path, volume: np.ndarray, grid: Grid) -> None:
    """Write a volume in file order as NIfTI, with its dtype (bool as uint8)."""
    image = nibabel.Nifti1Image(_storable(volume), grid.affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(grid.affine, code="scanner")
    image.set_qform(grid.affine, code="scanner")
    _write(image, path)


def write_like(path: Path, volume: np.ndarray, source: Path) -> None:
    """Write a volume with the exact shape and placement of the image file it belongs to.

    Args:
        path: File to write, `.nii.gz`.
        volume: Array in file order with as many voxels as `source`; bool is stored as uint8.
        source: Image file whose shape, affine, qform and sform are kept.
    """
    image = nibabel.load(source)
    written = nibabel.Nifti1Image(_storable(volume).reshape(image.shape), image.affine)
    if isinstance(image, nibabel.Nifti1Image | nibabel.Nifti1Pair):
        for field in PLACEMENT:
            written.header[field] = image.header[field]
    _write(written, path)


def _storable(volume: np.ndarray) -> np.ndarray:
    return volume.astype(np.uint8) if volume.dtype == bool else volume


def _write(image: nibabel.Nifti1Image, path: Path) -> None:
    """Compressed without a time stamp, so that the same image gives the same bytes."""
    path.write_bytes(gzip.compress(image.to_bytes(), compresslevel=1, mtime=0))
