"""NIfTI files: read with care, written on the grid of the image they belong to."""

import gzip
from pathlib import Path

import nibabel
import numpy as np

from tfrecord_tools.errors import InputError
from tfrecord_tools.grid import Grid

#: A header that declares more voxels than this is refused before any is read.
MAX_VOXELS = 2**27

#: No gzip file grows by more than this factor: what declares more is damaged.
MAX_INFLATION = 1100

#: Bytes that may follow the voxels of a compressed file.
MAX_TRAILING_BYTES = 1 << 20

#: Header fields that place an image in space; nothing else of a source's header is copied, since
#: the free-text ones may name a patient.
PLACEMENT = (
    *("pixdim", "xyzt_units", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d"),
    *("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"),
)


def read_volume(path: Path) -> tuple[np.ndarray, Grid]:
    """Read a 3-D image as float32 in file order; trailing axes of length 1 are dropped.

    Raises:
        InputError: The file is missing, damaged, not NIfTI, too large, or not 3-D.
    """
    path = Path(path)
    try:
        image = nibabel.load(path)
        shape = _volume_shape(image, path)
        voxels = _read_voxels(image, path).reshape(shape)
        affine = np.asarray(image.affine, np.float64)
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(
            f"{path} does not exist; check the path (in a table it is relative to the table)"
        ) from error
    except Exception as error:  # nibabel raises many kinds over a damaged file.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"{path} cannot be read ({reason[:120]}); restore or convert the file again"
        ) from error
    if voxels.dtype.kind not in "iuf":
        raise InputError(f"{path} holds {voxels.dtype} voxels, not numbers; convert it to scalars")
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise InputError(f"{path} has an affine that places no voxel; repair its header")
    with np.errstate(over="ignore"):  # Beyond float32: infinite, which is refused as such.
        return voxels.astype(np.float32), Grid(shape, affine)


def _volume_shape(image, path: Path) -> tuple[int, int, int]:
    """The shape without trailing axes of length 1, where it is that of a plausible volume."""
    if not isinstance(image, nibabel.Nifti1Image):
        raise InputError(f"{path} is {type(image).__name__}, not NIfTI; convert it to .nii.gz")
    shape = image.shape
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3 or min(shape) < 1:
        raise InputError(
            f"{path} is {len(image.shape)}-D with shape {image.shape}, not one 3-D volume; "
            "extract the volume that is wanted (b = 1000 for DWI) into a file of its own"
        )
    if np.prod(shape, dtype=np.float64) > MAX_VOXELS:
        raise InputError(f"{path} declares {shape} voxels, too many to be a study; check it")
    return shape


def _read_voxels(image: nibabel.Nifti1Image, path: Path) -> np.ndarray:
    """Voxels scaled in float64, so that rounding once gives the float32 nearest the source.

    Compressed files are read to their end, which checks their CRC: nibabel alone would stop
    after the last voxel and let a flipped bit pass.
    """
    if path.suffix.lower() != ".gz":
        return np.asanyarray(image.dataobj)
    stored = image.dataobj
    size = stored.offset + int(np.prod(stored.shape, dtype=np.int64)) * stored.dtype.itemsize
    if size > MAX_INFLATION * path.stat().st_size:
        raise EOFError(f"its header declares {size} bytes, more than it can hold")
    with gzip.open(path) as file:
        content = file.read(size + MAX_TRAILING_BYTES)
        if file.read(1):
            raise ValueError(f"it holds far more than the {size} bytes that its header declares")
    return np.asanyarray(type(image).from_bytes(content).dataobj)


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
