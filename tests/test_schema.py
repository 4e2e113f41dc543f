"""A record survives its bytes, in Python and in a TensorFlow graph."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tfrecord_tools.framing import frame
from tfrecord_tools.schema import SCHEMA, decode, encode, parse

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
sizes = st.integers(1, 11)

#: A record with nothing that may be missing.
BARE = dict.fromkeys(SCHEMA) | {
    "study": "é",
    "patient": "p",
    "group": "stroke",
    "slice_index": 0,
    "slice_count": 1,
    "height": 3,
    "width": 2,
    "adc_scale": np.float64(1),
    "mask_names": (),
    "masks": np.zeros((0, 3, 2), bool),
    "affine": np.eye(4),
    "file_shape": np.array([3, 2, 1], np.int32),
}
REQUIRED = [name for name, feature in SCHEMA.items() if not feature.optional]


def stored(dtype, shape):
    """Any bit pattern of this type: NaN payloads, infinities, -0.0 and subnormals included."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return st.binary(min_size=size, max_size=size).map(
        lambda octets: np.frombuffer(octets, dtype).reshape(shape)
    )


@st.composite
def records(draw):
    height, width, slices = draw(sizes), draw(sizes), draw(st.integers(1, 30))
    names = tuple(draw(st.lists(texts, max_size=4, unique=True)))

    def optional(dtype, shape):
        return draw(st.none() | stored(dtype, shape))

    return {
        "study": draw(texts),
        "patient": draw(texts),
        "group": draw(st.sampled_from(["stroke", "control", "unknown"])),
        "slice_index": draw(st.integers(0, slices - 1)),
        "slice_count": slices,
        "height": height,
        "width": width,
        "adc": optional("<f4", (height, width)),
        "dwi": optional("<f4", (height, width)),
        "adc_range": optional("<f4", (2,)),
        "dwi_range": optional("<f4", (2,)),
        "adc_scale": draw(stored("<f8", ())),
        "mask_names": names,
        "masks": draw(arrays.arrays(bool, (len(names), height, width))),
        "affine": draw(stored("<f8", (4, 4))),
        "file_shape": draw(stored("<i4", (3,))),
        "adc_affine": optional("<f8", (4, 4)),
        "adc_file_shape": optional("<i4", (3,)),
    }


def assert_same(value, expected):
    """Equal to the last bit."""
    if isinstance(expected, np.ndarray | np.generic):
        assert value.dtype == expected.dtype and value.shape == expected.shape
        assert value.tobytes() == expected.tobytes()
    else:
        assert value == expected and type(value) is type(expected)


@given(records())
@settings(deadline=None, max_examples=60)
def test_decoding_inverts_encoding(record):
    decoded = decode(encode(record))
    assert list(decoded) == list(SCHEMA)
    for name, expected in record.items():
        assert_same(decoded[name], expected)


@given(records())
@settings(deadline=None, max_examples=60)
def test_the_graph_parses_what_decode_does(record):
    parsed = parse(encode(record))
    assert set(parsed) == set(SCHEMA)
    for name, expected in decode(encode(record)).items():
        value = parsed[name].numpy()
        if expected is None:
            assert value.size == 0
        elif SCHEMA[name].kind == "text":
            assert value.decode() == expected
        elif SCHEMA[name].kind == "texts":
            assert tuple(text.decode() for text in value) == expected
        elif SCHEMA[name].kind == "int":
            assert value == expected
        else:
            assert_same(value, expected)


@given(records())
@settings(deadline=None, max_examples=10)
def test_encoding_is_deterministic(record):
    assert encode(record) == encode(dict(reversed(record.items())))


@given(records())
@settings(deadline=None, max_examples=40)
def test_the_bytes_are_those_of_protobuf(record):
    """Entry by entry: protobuf's own order of names differs between its versions."""
    features = tf.train.Example.FromString(encode(record)).features.feature
    assert set(features) == {n for n in SCHEMA if record[n] is not None}
    entries = [
        tf.train.Features(feature={name: features[name]}).SerializeToString()
        for name in sorted(features)
    ]
    expected = tf.train.Example(features=tf.train.Features.FromString(b"".join(entries)))
    assert tf.train.Example.FromString(encode(record)) == expected
    assert encode(record).endswith(b"".join(entries))


@given(st.lists(st.binary(max_size=300), max_size=4))
@settings(deadline=None, max_examples=40)
def test_frames_are_those_of_tensorflow(tmp_path_factory, payloads):
    path = tmp_path_factory.mktemp("frames") / "x.tfrecord"
    with tf.io.TFRecordWriter(str(path)) as writer:
        for payload in payloads:
            writer.write(payload)
    assert path.read_bytes() == b"".join(map(frame, payloads))


def test_parse_runs_in_a_pipeline_whatever_is_missing():
    full = BARE | {"dwi": np.ones((3, 2), np.float32)}
    dataset = tf.data.Dataset.from_tensor_slices([encode(BARE), encode(full)]).map(parse)
    assert [pair["dwi"].numpy().shape for pair in dataset] == [(0, 2), (3, 2)]


@pytest.mark.parametrize("name", REQUIRED)
def test_a_record_without_a_required_feature_is_not_written(name):
    with pytest.raises(KeyError, match=name):
        encode({other: value for other, value in BARE.items() if other != name})
