"""MetaImage files (`.mha`, `.mhd`): read with care.

The format is a few lines `Name = value` before the voxels. It is read here because the usual
library ends the process over a damaged header and takes damaged voxels for zeros.
"""

import dataclasses
import zlib
from pathlib import Path

import numpy as np

from tfrecord_tools.image_files import check_declared_size

#: A header of more bytes than this is none.
MAX_HEADER_BYTES = 1 << 16

#: Types of voxels; those whose size depends on the machine (MET_LONG) are not among them.
TYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}

#: Other names of the same fields.
SYNONYMS = {
    "Position": "Offset",
    "Origin": "Offset",
    "Rotation": "TransformMatrix",
    "Orientation": "TransformMatrix",
    "ElementByteOrderMSB": "BinaryDataByteOrderMSB",
}

#: Fields that would change the voxels, and the values with which they do not.
PLAIN = {
    "BinaryData": ("True",),
    "ElementNumberOfChannels": ("1",),
    "HeaderSize": ("0",),
    "ElementToIntensityFunctionSlope": ("1",),
    "ElementToIntensityFunctionOffset": ("0",),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Header:
    """What the header of a MetaImage file declares.

    Attributes:
        shape: Voxels along each axis, the fastest first, as in NIfTI.
        affine: float64 `(4, 4)`, voxel indices to millimetres (RAS+).
        dtype: Of the voxels, with byte order.
        compressed: Whether the voxels are deflated.
        compressed_size: Bytes of the deflated voxels; None where the header does not say.
        data: File that holds the voxels.
        offset: Where they start in it.
    """

    shape: tuple[int, ...]
    affine: np.ndarray
    dtype: np.dtype
    compressed: bool
    compressed_size: int | None
    data: Path
    offset: int


def read_header(path: Path) -> Header:
    """Read the header of a MetaImage file.

    Raises:
        ValueError: It is damaged, or asks for something that is not supported.
        OSError: The file cannot be opened.
    """
    fields, offset = _read_fields(path)
    for name, plain in PLAIN.items():
        if fields.get(name, plain[0]) not in plain:
            raise ValueError(f"{name} = {fields[name]} is not supported")
    shape = tuple(_integers(fields, "DimSize"))
    if not 3 <= len(shape) <= 5 or [len(shape)] != _integers(fields, "NDims"):
        raise ValueError(f"its header declares {len(shape)} axes, not 3 or 4")
    kind = fields.get("ElementType")
    if kind not in TYPES:
        raise ValueError(f"its voxels are of the type {kind}, not numbers of a known size")
    order = ">" if _flag(fields, "BinaryDataByteOrderMSB") else "<"
    size = _integers(fields, "CompressedDataSize") if "CompressedDataSize" in fields else [None]
    name = fields["ElementDataFile"]
    if name != "LOCAL" and (Path(name).name != name or name.split()[0] == "LIST" or "%" in name):
        raise ValueError(f"its voxels are in {name!r}, which is not one file beside it")
    return Header(
        shape=shape,
        affine=_affine(fields, len(shape)),
        dtype=np.dtype(order + TYPES[kind]),
        compressed=_flag(fields, "CompressedData"),
        compressed_size=size[0],
        data=path if name == "LOCAL" else path.with_name(name),
        offset=offset if name == "LOCAL" else 0,
    )


def _read_fields(path: Path) -> tuple[dict[str, str], int]:
    """The lines of the header by name, and the number of its bytes."""
    fields, offset = {}, 0
    with open(path, "rb") as file:
        while "ElementDataFile" not in fields:
            line = file.readline(MAX_HEADER_BYTES)
            offset += len(line)
            name, equals, value = line.decode("latin-1").partition("=")
            if not equals or not line.endswith(b"\n") or offset > MAX_HEADER_BYTES:
                raise ValueError("it has no MetaImage header")
            name = SYNONYMS.get(name.strip(), name.strip())
            if name in fields:
                raise ValueError(f"its header says {name} twice")
            fields[name] = value.strip()
    if not fields["ElementDataFile"]:
        raise ValueError("its header names no ElementDataFile")
    return fields, offset


def _numbers(fields: dict[str, str], name: str, default=None) -> np.ndarray:
    if name not in fields and default is not None:
        return np.asarray(default, np.float64)
    try:
        numbers = np.array([float(word) for word in fields[name].split()])
    except (KeyError, ValueError) as error:
        raise ValueError(f"its header has no valid {name}") from error
    if not numbers.size or not np.isfinite(numbers).all():
        raise ValueError(f"its header has no valid {name}")
    return numbers


def _integers(fields: dict[str, str], name: str) -> list[int]:
    numbers = _numbers(fields, name)
    if (numbers != np.round(numbers)).any() or (numbers < 1).any() or (numbers > 2**40).any():
        raise ValueError(f"its header has no valid {name}")
    return [int(number) for number in numbers]


def _flag(fields: dict[str, str], name: str) -> bool:
    value = fields.get(name, "False")
    if value not in ("True", "False"):
        raise ValueError(f"its header has no valid {name}")
    return value == "True"


def _affine(fields: dict[str, str], axes: int) -> np.ndarray:
    """Columns of the affine are the rows of TransformMatrix; the file's world is LPS, ours RAS."""
    matrix = _numbers(fields, "TransformMatrix", np.eye(axes))
    spacing = _numbers(fields, "ElementSpacing", np.ones(axes))
    offset = _numbers(fields, "Offset", np.zeros(axes))
    if matrix.size != axes * axes or spacing.size != axes or offset.size != axes:
        raise ValueError(f"its TransformMatrix, ElementSpacing or Offset do not fit {axes} axes")
    affine = np.eye(4)
    affine[:3, :3] = matrix.reshape(axes, axes)[:3, :3].T * spacing[:3]
    affine[:3, 3] = offset[:3]
    return np.diag([-1.0, -1, 1, 1]) @ affine


def read_voxels(header: Header) -> np.ndarray:
    """The voxels, of `header.shape`.

    Raises:
        ValueError: They are damaged, or fewer or more than the header declares.
        OSError: The file cannot be read.
    """
    stored = header.data.stat().st_size - header.offset
    size = check_declared_size(
        header.shape, header.dtype.itemsize, stored if header.compressed else None
    )
    expected = header.compressed_size if header.compressed else size
    if expected is not None and stored != expected:
        raise ValueError(f"it holds {stored} bytes where its header declares {expected}")
    with open(header.data, "rb") as file:
        file.seek(header.offset)
        content = file.read(stored)
    if header.compressed:
        content = _inflate(content, size)
    return np.frombuffer(content, header.dtype).reshape(header.shape, order="F")


def _inflate(content: bytes, size: int) -> bytes:
    """Inflate to exactly `size` bytes; the checksum at the end of the stream is compared."""
    stream = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
    try:
        inflated = stream.decompress(content, size + 1)
        # The checksum is read only when something is asked of what follows the voxels.
        inflated += stream.decompress(stream.unconsumed_tail, 1) if not stream.eof else b""
    except zlib.error as error:
        raise ValueError(f"its compressed voxels are damaged: {error}") from error
    if len(inflated) != size or not stream.eof or stream.unused_data:
        raise ValueError("it holds fewer or more voxels than its header declares")
    return inflated
