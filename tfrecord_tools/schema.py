"""The features of a record, in ONE table that drives encoding, decoding and graph parsing.

A record is a slice pair at its native size. Pixels are stored with the values of the source file
as float32, bit for bit; `adc_scale` turns ADC into 1e-3 mm2/s. Decoding imports
TensorFlow inside the functions; encoding needs none.
"""

import dataclasses
import functools
import math
from collections.abc import Iterable, Mapping

import numpy as np

#: Raised by one when a record of the old kind can no longer be read.
SCHEMA_VERSION = 2


@dataclasses.dataclass(frozen=True)
class Feature:
    """A feature: how its numpy value is stored.

    Attributes:
        kind: "text" (one string), "texts" (several), "int" (one), or "array".
        dtype: For arrays, the little-endian numpy dtype; bool arrays are packed, 8 to a byte.
        shape: For arrays, a number or the name of an int feature (or of a list, for its length)
            for each axis.
        optional: Whether the value may be None (a missing modality).
    """

    kind: str
    dtype: str = ""
    shape: tuple = ()
    optional: bool = False


SCHEMA: Mapping[str, Feature] = {
    "study": Feature("text"),
    "patient": Feature("text"),
    "group": Feature("text"),
    "slice_index": Feature("int"),
    "slice_count": Feature("int"),
    "height": Feature("int"),
    "width": Feature("int"),
    "adc": Feature("array", "<f4", ("height", "width"), optional=True),
    "dwi": Feature("array", "<f4", ("height", "width"), optional=True),
    # Smallest and largest value of the volume the slice comes from, for its normalisation.
    "adc_range": Feature("array", "<f4", (2,), optional=True),
    "dwi_range": Feature("array", "<f4", (2,), optional=True),
    "adc_scale": Feature("array", "<f8", ()),
    # "RATER_MODALITY" of each mask, such as "r1_adc", in the order of `masks`.
    "mask_names": Feature("texts"),
    "masks": Feature("array", "bool", ("mask_names", "height", "width")),
    # The grid of the arrays, and ADC's own where ADC was resampled to it.
    "affine": Feature("array", "<f8", (4, 4)),
    "file_shape": Feature("array", "<i4", (3,)),
    "adc_affine": Feature("array", "<f8", (4, 4), optional=True),
    "adc_file_shape": Feature("array", "<i4", (3,), optional=True),
}


def encode(record: Mapping) -> bytes:
    """Serialise a record (a value for each feature of `SCHEMA`) as a `tf.train.Example`.

    Put together here, so that processes which convert studies need no TensorFlow. Features stand
    in the order of their names, whatever the version of protobuf.
    """
    parts = []
    for name in NAMES:
        feature, value = SCHEMA[name], record[name]
        if value is None and feature.optional:
            continue
        values = (value,) if feature.kind == "int" else tuple(_to_bytes(feature, value))
        if feature.kind == "array" and len(values[0]) > 512:
            parts += _head(name, len(values[0])), values[0]
        else:
            parts.append(_small_entry(name, values))
    return b"".join(_field(1, parts))


NAMES = sorted(SCHEMA)


# What is small is mostly the same in all records of a study, and so are the sizes of its arrays.
@functools.lru_cache(maxsize=1024)
def _small_entry(name: str, values: tuple) -> bytes:
    return b"".join(_entry(name, values))


@functools.lru_cache(maxsize=1024)
def _head(name: str, length: int) -> bytes:
    """What stands before the content of an array of so many bytes."""
    return b"".join(_entry(name, (bytes(length),))[:-1])


def _entry(name: str, values: tuple) -> list[bytes]:
    """A feature with its name, as the map of an `Example` has it, in parts to be joined once."""
    if SCHEMA[name].kind == "int":
        stored = _field(3, _field(1, map(_varint, values)))  # int64_list, packed
    else:
        stored = _field(1, [part for text in values for part in _field(1, [text])])  # bytes_list
    return _field(1, _field(1, [name.encode()]) + _field(2, stored))


def _field(number: int, parts: Iterable[bytes]) -> list[bytes]:
    """A length-delimited field of a protobuf message, in parts."""
    parts = list(parts)
    return [bytes([number << 3 | 2]) + _varint(sum(map(len, parts))), *parts]


def _varint(value: int) -> bytes:
    """7 bits a byte, lowest first; negative numbers as 64-bit two's complement."""
    value = int(value) & 0xFFFFFFFFFFFFFFFF
    octets = bytearray()
    while value > 0x7F:
        octets.append(value & 0x7F | 0x80)
        value >>= 7
    octets.append(value)
    return bytes(octets)


def _to_bytes(feature: Feature, value) -> list[bytes]:
    if feature.kind == "text":
        return [value.encode()]
    if feature.kind == "texts":
        return [text.encode() for text in value]
    if feature.dtype == "bool":
        return [np.packbits(value).tobytes()]
    return [np.ascontiguousarray(value, dtype=feature.dtype).tobytes()]


def decode(serialised: bytes) -> dict:
    """The inverse of `encode`: a record of Python and numpy values."""
    import tensorflow as tf

    stored = tf.train.Example.FromString(serialised).features.feature
    record = {}
    for name, feature in SCHEMA.items():
        if feature.kind == "int":
            record[name] = stored[name].int64_list.value[0]
        elif feature.kind == "text":
            record[name] = stored[name].bytes_list.value[0].decode()
        elif feature.kind == "texts":
            record[name] = tuple(v.decode() for v in stored[name].bytes_list.value)
        else:
            record[name] = _to_array(feature, stored[name].bytes_list.value, record)
    return record


def _to_array(feature: Feature, values, record) -> np.ndarray | None:
    if not values:
        return None
    shape = [_length(axis, record) for axis in feature.shape]
    if feature.dtype == "bool":
        count = int(np.prod(shape))
        if len(values[0]) != math.ceil(count / 8):
            raise ValueError(f"{len(values[0])} bytes do not hold {count} bits")
        bits = np.unpackbits(np.frombuffer(values[0], np.uint8), count=count)
        return bits.astype(bool).reshape(shape)
    return np.frombuffer(values[0], feature.dtype).reshape(shape)


def _length(axis, record) -> int:
    if isinstance(axis, int):
        return axis
    return len(record[axis]) if SCHEMA[axis].kind == "texts" else record[axis]


def parse(serialised):
    """`decode` as a TensorFlow graph.

    Args:
        serialised: Scalar string tensor.

    Returns:
        A tensor for each feature; an array that is None becomes an empty one (its first axis, or
        its only one, has length 0); `masks` is bool `(names, height, width)`.
    """
    import tensorflow as tf

    spec = {}
    for name, feature in SCHEMA.items():
        if feature.kind == "int":
            spec[name] = tf.io.FixedLenFeature((), tf.int64)
        elif feature.kind == "texts":
            spec[name] = tf.io.RaggedFeature(tf.string)
        else:
            default = "" if feature.optional else None
            spec[name] = tf.io.FixedLenFeature((), tf.string, default)
    parsed = tf.io.parse_single_example(serialised, spec)
    arrays = {n: _parse_array(f, parsed[n], parsed) for n, f in SCHEMA.items() if f.kind == "array"}
    return parsed | arrays


#: The eight bits of every octet, as `numpy.packbits` orders them.
_BITS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).astype(bool)


def _parse_array(feature: Feature, content, parsed):
    import tensorflow as tf

    shape = [
        axis if isinstance(axis, int)
        else tf.size(parsed[axis]) if SCHEMA[axis].kind == "texts"
        else tf.cast(parsed[axis], tf.int32)
        for axis in feature.shape
    ]  # fmt: skip
    if feature.dtype == "bool":
        octets = tf.cast(tf.io.decode_raw(content, tf.uint8), tf.int32)
        bits = tf.gather(_BITS, octets)  # Quicker than masking out each bit.
        return tf.reshape(tf.reshape(bits, [-1])[: tf.reduce_prod(shape)], shape)
    values = tf.io.decode_raw(content, tf.as_dtype(np.dtype(feature.dtype).newbyteorder("=")))
    if feature.optional:
        shape = [-1, *shape[1:]]
    return tf.reshape(values, shape)
