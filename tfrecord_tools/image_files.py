"""Names of image files, and how much one may declare to hold."""

import glob
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

#: Endings of the image files that can be read: NIfTI and MetaImage.
IMAGE_SUFFIXES = (".nii", ".nii.gz", ".mha", ".mhd")

#: A header that declares more voxels than this is refused before any is read.
MAX_VOXELS = 2**26

#: The same for bytes, for files of several volumes.
MAX_BYTES = 2**29

#: No compressed file grows by more than this factor: what declares more is damaged.
MAX_INFLATION = 1100

_SUFFIX = re.compile(r"\.(nii(\.gz)?|mha|mhd)$", re.IGNORECASE)


def is_image(path: Path) -> bool:
    """Whether a name is that of an image; hidden files, such as macOS's `._*`, are none."""
    return bool(_SUFFIX.search(path.name)) and not path.name.startswith(".")


def stem(path: Path) -> str:
    """The name of an image file without its ending."""
    return _SUFFIX.sub("", path.name)


def check_declared_size(shape: Sequence[int], itemsize: int, inflates_from: int | None) -> int:
    """How many bytes of voxels a header declares, where that is plausible.

    Args:
        shape: Declared voxels along each axis, at least three of them.
        itemsize: Bytes of a voxel.
        inflates_from: Bytes of the compressed file, or None for one that is not compressed.

    Raises:
        ValueError: More than a study can have, or than the file can hold.
    """
    size = float(np.prod(shape, dtype=np.float64)) * itemsize
    if np.prod(shape[:3], dtype=np.float64) > MAX_VOXELS or size > MAX_BYTES:
        raise ValueError(f"its header declares {tuple(shape)} voxels, too many to be a study")
    if inflates_from is not None and size > MAX_INFLATION * inflates_from:
        raise ValueError(f"its header declares {size:.0f} bytes, more than it can hold")
    return int(size)


def images_matching(folder: Path, *patterns: str) -> list[Path]:
    """The image files that match, in the order of the patterns, then of their names."""
    matches = (p for pattern in patterns for p in sorted(folder.glob(pattern)))
    return list(dict.fromkeys(p for p in matches if is_image(p) and p.is_file()))


def first_image(folder: Path, *patterns: str) -> Path | None:
    """The first of `images_matching`, or None."""
    return next(iter(images_matching(folder, *patterns)), None)


def image_named(folder: Path, name: str) -> Path | None:
    """The image file of a name without its ending, or None."""
    return first_image(folder, f"{glob.escape(name)}.*")


def those_found(**paths: Path | None) -> dict[str, Path]:
    """The paths that are not None, by name."""
    return {name: path for name, path in paths.items() if path is not None}
