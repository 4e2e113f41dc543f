"""MetaImage files for tests, written without the reader that they test."""

import zlib
from pathlib import Path

import nibabel as nib
import numpy as np

TYPES = {
    **{"int8": "MET_CHAR", "uint8": "MET_UCHAR", "int16": "MET_SHORT", "uint16": "MET_USHORT"},
    **{"int32": "MET_INT", "uint32": "MET_UINT", "float32": "MET_FLOAT", "float64": "MET_DOUBLE"},
    **{"int64": "MET_LONG_LONG", "uint64": "MET_ULONG_LONG"},
}


def write_metaimage(
    path: Path, volume, affine, *, compressed=True, data="LOCAL", **changes
) -> Path:
    """Write a `.mha`, or a `.mhd` with its voxels in the file `data`; `affine` is RAS+.

    `changes` replace lines of the header; None takes one out.
    """
    order = ">" if changes.get("BinaryDataByteOrderMSB") == "True" else "<"
    voxels = volume.astype(volume.dtype.newbyteorder(order)).tobytes(order="F")
    voxels = zlib.compress(voxels) if compressed else voxels
    world = np.diag([-1, -1, 1, 1]) @ affine
    spacing = np.linalg.norm(world[:3, :3], axis=0)
    fields = {
        "ObjectType": "Image",
        "NDims": "3",
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "CompressedData": str(compressed),
        "CompressedDataSize": str(len(voxels)) if compressed else None,
        "TransformMatrix": _words((world[:3, :3] / spacing).T),
        "Offset": _words(world[:3, 3]),
        "ElementSpacing": _words(spacing),
        "DimSize": _words(volume.shape),
        "ElementType": TYPES[volume.dtype.name],
    } | changes
    fields["ElementDataFile"] = fields.pop("ElementDataFile", data)  # The last line by law.
    header = "".join(f"{name} = {value}\n" for name, value in fields.items() if value is not None)
    path.parent.mkdir(parents=True, exist_ok=True)
    if data == "LOCAL":
        path.write_bytes(header.encode() + voxels)
    else:
        path.write_bytes(header.encode())
        path.with_name(data).write_bytes(voxels)
    return path


def _words(values) -> str:
    return " ".join(str(value) for value in np.ravel(values).tolist())


def as_metaimage(source: Path, path: Path) -> Path:
    """A NIfTI file again as MetaImage."""
    image = nib.load(source)
    return write_metaimage(path, np.asarray(image.dataobj), image.affine)
