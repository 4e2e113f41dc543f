"""Images: NIfTI or MetaImage read with care, NIfTI written on the grid of its source."""

import gzip
import warnings
from pathlib import Path

import nibabel
import numpy as np
from isal import igzip
from nibabel.imageglobals import LoggingOutputSuppressor

from tfrecord_tools import metaimage
from tfrecord_tools.diffusion import find_shell, geometric_mean, read_bvalues
from tfrecord_tools.errors import InputError
from tfrecord_tools.grid import Grid
from tfrecord_tools.image_files import IMAGE_SUFFIXES, MAX_INFLATION, check_declared_size

#: What NIfTI files may end in: the older pairs of files as well.
NIFTI_SUFFIXES = (".nii", ".nii.gz", ".hdr", ".img")

#: Bytes that may follow the voxels of a compressed file.
MAX_TRAILING_BYTES = 1 << 20

#: An affine whose columns span less than this share of a box of their lengths places no voxel.
LEAST_BOX = 1e-2

#: Header fields that place an image in space; nothing else of a source's header is copied, since
#: the free-text ones may name a patient.
PLACEMENT = (
    *("pixdim", "xyzt_units", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d"),
    *("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"),
)


def read_volume(path: Path) -> tuple[np.ndarray, Grid]:
    """Read a 3-D image as float32 in file order; trailing axes of length 1 are dropped.

    Of a series with b-values beside it (`.bval`), as FSL keeps DWI, this is the geometric mean
    over the directions at the b-value nearest to 1000.

    Raises:
        InputError: The file is missing, damaged, no image, too large, or not 3-D.
    """
    return _read(Path(path), read_bvalues)


def _read(path: Path, find_bvalues) -> tuple[np.ndarray, Grid]:
    """Read a volume; `find_bvalues` gives a file's b-values, or None where it can be no series."""
    name = path.name.lower()
    if not name.endswith((*NIFTI_SUFFIXES, *IMAGE_SUFFIXES)):
        raise InputError(
            f"{path} is not NIfTI or MetaImage; convert it to {', '.join(IMAGE_SUFFIXES)}"
        )
    try:
        if path.exists() and not path.is_file():
            raise InputError(f"{path} is no file but a folder or a device; name an image file")
        path.open("rb").close()  # Tells the reason; nibabel would only guess at the format.
        if name.endswith((".mha", ".mhd")):
            voxels, affine = _read_metaimage(path)
        else:
            voxels, affine = _read_nifti(path, find_bvalues)
    except InputError:
        raise
    except FileNotFoundError as error:
        # Of a pair of files it may be the other one.
        raise InputError(
            f"{error.filename or path} does not exist; check the path (in a table it is relative "
            "to the table)"
        ) from error
    except PermissionError as error:
        raise InputError(f"{path} may not be read; check its permissions") from error
    except Exception as error:  # nibabel raises many kinds over a damaged file.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"{path} cannot be read ({reason[:120]}); restore or convert the file again"
        ) from error
    if voxels.dtype.kind not in "iuf":
        raise InputError(f"{path} holds {voxels.dtype} voxels, not numbers; convert it to scalars")
    if not _places_voxels(affine):
        raise InputError(f"{path} has an affine that places no voxel; repair its header")
    # Beyond float32 is infinite, which is refused as such.
    with np.errstate(over="ignore", invalid="ignore"):
        return voxels.astype(np.float32), Grid(voxels.shape, affine)


def _places_voxels(affine: np.ndarray) -> bool:
    if not np.isfinite(affine).all() or np.abs(affine).max() > 1e9:
        return False
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if lengths.min() < 1e-3:
        return False
    return abs(np.linalg.det(affine[:3, :3] / lengths)) >= LEAST_BOX


def _read_nifti(path: Path, find_bvalues) -> tuple[np.ndarray, np.ndarray]:
    # What is wrong with a header is told in our words, and what is odd in none.
    with LoggingOutputSuppressor(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        image = nibabel.load(path)
        if not isinstance(image, nibabel.Nifti1Pair):
            raise InputError(f"{path} is {type(image).__name__}, not NIfTI; convert it to .nii.gz")
        affine = np.asarray(image.affine, np.float64)
        shape = _volume_shape(image.shape)
        series = None if shape else _find_series(image.shape, path, find_bvalues)
        image = _whole(image, path)
        if shape:
            return np.asanyarray(image.dataobj).reshape(shape), affine
        volumes = (image.dataobj[..., index] for index in series)
        return (next(volumes) if series.size == 1 else geometric_mean(volumes)), affine


def _read_metaimage(path: Path) -> tuple[np.ndarray, np.ndarray]:
    header = metaimage.read_header(path)
    shape = _volume_shape(header.shape)
    if not shape:
        raise _not_3d(header.shape, path)
    if not header.data.is_file():
        raise InputError(
            f"{path} has its voxels in {header.data.name!r}, which does not exist beside it; keep "
            "both files together"
        )
    return metaimage.read_voxels(header).reshape(shape, order="F"), header.affine


def _volume_shape(shape: tuple[int, ...]) -> tuple[int, int, int] | None:
    """The shape without trailing axes of length 1; None where it is not that of one volume."""
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    return shape if len(shape) == 3 and min(shape) >= 1 else None


def _find_series(shape: tuple[int, ...], path: Path, find_bvalues) -> np.ndarray:
    """Which volumes of a 4-D file are the DWI, by the b-values beside it."""
    bvalues = find_bvalues(path) if len(shape) == 4 and min(shape) >= 1 else None
    if bvalues is None:
        raise _not_3d(shape, path)
    if len(bvalues) != shape[3]:
        raise InputError(
            f"{path} holds {shape[3]} volumes, but the .bval file beside it {len(bvalues)} "
            "b-values; correct it"
        )
    series = find_shell(bvalues)
    if not series.size:
        raise InputError(
            f"{path} holds no diffusion-weighted volume, only b = {bvalues.min():g} to "
            f"{bvalues.max():g} by the .bval file beside it; give the DWI series"
        )
    return series


def _not_3d(shape: tuple[int, ...], path: Path) -> InputError:
    return InputError(
        f"{path} is {len(shape)}-D with shape {shape}, not one 3-D volume; extract the volume "
        "that is wanted (b = 1000 for DWI) into a file of its own, or put its b-values beside it "
        "(.bval)"
    )


def _whole(image: nibabel.Nifti1Pair, path: Path) -> nibabel.Nifti1Pair:
    """The same image, where it holds what it declares.

    Compressed files are read to their end, which checks their CRC: nibabel alone would stop
    after the last voxel and let a flipped bit pass.
    """
    stored = image.dataobj
    if not path.name.lower().endswith(".gz"):
        check_declared_size(stored.shape, stored.dtype.itemsize, None)
        return image
    held = path.stat().st_size
    size = stored.offset + check_declared_size(stored.shape, stored.dtype.itemsize, held)
    if size > MAX_INFLATION * held:
        raise ValueError(f"its voxels start at byte {stored.offset}, more than it can hold")
    with igzip.open(path) as file:  # Twice as fast as `gzip`, with the same checks.
        content = file.read(size + MAX_TRAILING_BYTES)
        if file.read(1):
            raise ValueError(f"it holds far more than the {size} bytes that its header declares")
    return type(image).from_bytes(content)


def read_mask(path: Path) -> tuple[np.ndarray, Grid]:
    """Read a mask as bool in file order.

    Voxels above 0.5 are lesion: a mask stored with a scale slope reads as 0.99999999977, which
    `== 1` and a cast to integers would lose.
    """
    volume, grid = _read(Path(path), lambda path: None)
    if not np.isfinite(volume).all():
        raise InputError(f"{path} has NaN or infinite voxels; a mask holds 0 and 1")
    return volume > 0.5, grid


def write_volume(path: Path, volume: np.ndarray, grid: Grid) -> None:
    """Write a volume in file order as NIfTI, with its dtype (bool as uint8)."""
    image = nibabel.Nifti1Image(_storable(volume), grid.affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(grid.affine, code="scanner")
    image.set_qform(grid.affine, code="scanner")
    if not np.allclose(image.get_qform(), grid.affine, atol=1e-3):
        image.set_qform(None, code=0)  # A qform holds no sheared axes.
    _write(image, path)


def write_like(path: Path, volume: np.ndarray, source: Path) -> None:
    """Write a volume with the exact shape and placement of the image file it belongs to.

    Args:
        path: File to write, `.nii.gz`.
        volume: Array in file order as `read_volume` gives it; bool is stored as uint8.
        source: Image file whose affine, qform and sform are kept, and whose shape: that of one
            volume where it is a series.
    """
    source = Path(source)
    if source.name.lower().endswith((".mha", ".mhd")):
        write_volume(path, volume, Grid(volume.shape, metaimage.read_header(source).affine))
        return
    with LoggingOutputSuppressor():
        image = nibabel.load(source)
    whole = volume.size == np.prod(image.shape, dtype=np.float64)
    # NIfTI-2 places in float64, which NIfTI-1 would round.
    precise = isinstance(image, nibabel.Nifti2Image | nibabel.Nifti2Pair)
    kind = nibabel.Nifti2Image if precise else nibabel.Nifti1Image
    shape = image.shape if whole else volume.shape
    written = kind(_storable(volume).reshape(shape), image.affine)
    for field in PLACEMENT:
        written.header[field] = image.header[field]
    _write(written, path)


def _storable(volume: np.ndarray) -> np.ndarray:
    return volume.astype(np.uint8) if volume.dtype == bool else volume


def _write(image: nibabel.Nifti1Image, path: Path) -> None:
    """Compressed without a time stamp, so that the same image gives the same bytes."""
    path.write_bytes(gzip.compress(image.to_bytes(), compresslevel=1, mtime=0))
