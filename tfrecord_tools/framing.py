"""The frame of a record in a TFRecord file, written and read without TensorFlow."""

import os
import struct
from collections.abc import Iterator
from pathlib import Path

import google_crc32c


def frame(payload: bytes) -> bytes:
    """A record as it stands in the file: length, its CRC, payload, its CRC."""
    length = struct.pack("<Q", len(payload))
    return b"".join((length, masked_crc(length), payload, masked_crc(payload)))


def masked_crc(content: bytes) -> bytes:
    """CRC32C, rotated and shifted as TFRecord has it, since CRCs of CRCs are weak."""
    crc = google_crc32c.value(content)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def check_frames(path: Path, count: int) -> None:
    """Walk over the lengths of a TFRecord file, to be sure that none reaches beyond it.

    Raises:
        ValueError: One does, or there are not `count` records.
    """
    found, position = 0, 0
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        while position < size:
            file.seek(position)
            position += 16 + int.from_bytes(file.read(8), "little")
            found += 1
    if position != size:
        raise ValueError(f"record {found} is cut off")
    if found != count:
        raise ValueError(f"{found} records instead of {count}")


def read_frames(path: Path) -> Iterator[bytes]:
    """The payloads of a TFRecord file.

    Unlike TensorFlow's reader this one never allocates what a length promises beyond the file.

    Raises:
        ValueError: What is wrong with a record.
    """
    with open(path, "rb") as file:
        left = os.fstat(file.fileno()).st_size
        number = 0
        while left:
            number += 1
            head = file.read(12)
            if len(head) < 12:
                raise ValueError(f"record {number} is cut off")
            length = int.from_bytes(head[:8], "little")
            if masked_crc(head[:8]) != head[8:]:
                raise ValueError(f"the length of record {number} fails its CRC check")
            left -= 16 + length
            if left < 0:
                raise ValueError(f"record {number} is cut off")
            payload = file.read(length)
            if masked_crc(payload) != file.read(4):
                raise ValueError(f"record {number} fails its CRC check")
            yield payload
