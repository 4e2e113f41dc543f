"""Damaged and forged shards: refused with `InputError`, never a crash or another volume."""

import copy
import dataclasses
import json
import resource

import numpy as np
import pytest
import tensorflow as tf

from tfrecord_tools.errors import InputError
from tfrecord_tools.framing import frame, masked_crc, read_frames
from tfrecord_tools.integrity import check_shards
from tfrecord_tools.reader import read_slice_pairs, read_studies
from tfrecord_tools.shards import MANIFEST, read_dataset_info, sha256_of

SHARD = "test-00000-of-00001.tfrecord"


@pytest.fixture(scope="module")
def small(shards, tmp_path_factory):
    """The test split alone: the bytes of its shard, its manifest, its studies."""
    folder = tmp_path_factory.mktemp("small")
    info = read_dataset_info(shards)
    dataclasses.replace(
        info,
        splits={"test": info.splits["test"]},
        studies={name: info.studies[name] for name in info.splits["test"]},
        shards={SHARD: info.shards[SHARD]},
    ).write(folder)
    (folder / SHARD).write_bytes((shards / SHARD).read_bytes())
    check_shards(folder)
    content = json.loads((folder / MANIFEST).read_text())
    return folder, (folder / SHARD).read_bytes(), content, list(read_studies(folder))


# How bytes are damaged: (rng, content) -> content.


def flip(rng, content):
    damaged = bytearray(content)
    for position in rng.integers(0, len(content), rng.integers(1, 20)):
        damaged[position] ^= 1 << rng.integers(8)
    return bytes(damaged)


def cut(rng, content):
    return content[: rng.integers(len(content))]


def append(rng, content):
    return content + rng.bytes(rng.integers(1, 100))


def splice(rng, content):
    start, end = sorted(rng.integers(0, len(content), 2))
    return content[:start] + content[end:]


# How records are forged, with right CRCs: (rng, payloads) -> payloads or framed bytes.


def reorder(rng, payloads):
    one, other = rng.choice(len(payloads), 2, replace=False)
    payloads[one], payloads[other] = payloads[other], payloads[one]
    return payloads


def repeat(rng, payloads):
    payloads.insert(rng.integers(len(payloads)), payloads[rng.integers(len(payloads))])
    return payloads


def replace(rng, payloads):
    one, other = rng.choice(len(payloads), 2, replace=False)
    payloads[one] = payloads[other]
    return payloads


def drop(rng, payloads):
    del payloads[rng.integers(len(payloads))]
    return payloads


def babble(rng, payloads):
    payloads[rng.integers(len(payloads))] = rng.bytes(rng.integers(200))
    return payloads


def promise(rng, payloads):
    """A length that no file holds, with the CRC that belongs to it."""
    framed = [frame(payload) for payload in payloads]
    index = rng.integers(len(framed))
    lengths = [2**63 - 1, 2**64 - 1, 2**64 - 17, 2**40, 2**33, 2**31, 10**6, 0]
    length = lengths[rng.integers(len(lengths))]
    head = length.to_bytes(8, "little")
    framed[index] = head + masked_crc(head) + framed[index][12:]
    return b"".join(framed)


def forge(rng, payloads):
    """A valid example whose features are of another kind, number, size or name."""
    index = rng.integers(len(payloads))
    example = tf.train.Example.FromString(payloads[index])
    features = example.features.feature
    name = str(rng.choice(sorted(features)))
    feature = features[name]
    kind = rng.integers(7)
    if kind == 0:
        del features[name]
    elif kind == 1:
        feature.Clear()
    elif kind == 2:
        feature.float_list.value[:] = rng.random(rng.integers(3))
    elif kind == 3:
        feature.int64_list.value[:] = forged_ints(rng)
    elif kind == 4:
        feature.bytes_list.value[:] = [rng.bytes(rng.integers(40)) for _ in range(rng.integers(3))]
    elif kind == 5:
        features["surprise"].int64_list.value[:] = [1]
        features["height"].int64_list.value[:] = forged_ints(rng)
    else:
        features["height"].int64_list.value[:] = [-1]
        features["width"].int64_list.value[:] = [int(2**62)]
    payloads[index] = example.SerializeToString()
    return payloads


def forged_ints(rng):
    odd = [-(2**63), -1, 0, 1, 7, 48, 49, 2**31, 2**32, 2**62]
    return [odd[index] for index in rng.integers(0, len(odd), rng.integers(3))]


# How the manifest is forged: (rng, content) -> content.


def alter_manifest(rng, content):
    """Put something odd in place of anything."""
    odd = [None, True, -1, 0, 2**70, 1.5, "", "..", "x" * 9, [], {}, ["a"], {"a": 1}, [[]]]
    parent, key = find_place(rng, content)
    if rng.random() < 0.2:
        del parent[key]
    else:
        parent[key] = copy.deepcopy(odd[rng.integers(len(odd))])
    return content


def find_place(rng, node):
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        key = keys[rng.integers(len(keys))]
        if not node[key] or not isinstance(node[key], dict | list) or rng.random() < 0.2:
            return node, key
        node = node[key]


DAMAGES = (flip, cut, append, splice)
FORGERIES = (reorder, repeat, replace, drop, babble, promise, forge, forge, forge)
KINDS = (*DAMAGES, *FORGERIES, alter_manifest, alter_manifest)


def write_mutant(seed, small):
    """Write a mutant; whether the manifest vouches for it, so that only its content tells."""
    folder, original, content, _ = small
    rng = np.random.default_rng(seed)
    mutate, signed = KINDS[seed % len(KINDS)], False
    shard, content = original, copy.deepcopy(content)
    if mutate is alter_manifest:
        content = mutate(rng, content)
    elif mutate in DAMAGES:
        shard = mutate(rng, original)
    else:
        (folder / SHARD).write_bytes(original)
        forged = mutate(rng, list(read_frames(folder / SHARD)))
        shard = forged if isinstance(forged, bytes) else b"".join(map(frame, forged))
        signed = bool(rng.integers(2))
    (folder / SHARD).write_bytes(shard)
    if signed:
        content["shards"][SHARD].update(sha256=sha256_of(folder / SHARD), bytes=len(shard))
    (folder / MANIFEST).write_text(json.dumps(content))
    return signed


def same(study, other):
    arrays = (study.images, other.images), (study.masks, other.masks)
    return (
        study.study == other.study
        and np.array_equal(study.grid.affine, other.grid.affine)
        and study.adc_scale == other.adc_scale
        and all(a.keys() == b.keys() for a, b in arrays)
        and all(np.array_equal(a[key], b[key]) for a, b in arrays for key in b)
    )


def survives(seed, small):
    """Hold the laws for one mutant; whether it was refused."""
    folder, _, _, studies = small
    signed = write_mutant(seed, small)
    refused = 0
    try:
        check_shards(folder)
    except InputError as error:
        assert str(error).isprintable()
        refused += 1
    try:
        found = list(read_studies(folder))
        assert len(found) == len(studies) and all(map(same, found, studies)), seed
    except InputError:
        refused += 1
    try:
        pairs = [pair["adc"] for pair in read_slice_pairs(folder, "test").as_numpy_iterator()]
        slices = [adc for study in studies for adc in study.images["adc"]]
        assert signed or all(map(np.array_equal, pairs, slices)), seed
    except (InputError, tf.errors.OpError, UnicodeDecodeError):
        refused += 1
    return refused


def survive(seeds, small):
    refused = sum(survives(seed, small) > 0 for seed in seeds)
    assert refused > 0.8 * len(seeds)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 4 << 20  # kB


def test_mutants_are_refused_or_read_as_they_were(small):
    survive(range(45), small)


@pytest.mark.slow
def test_2000_mutants_are_refused_or_read_as_they_were(small):
    survive(range(2000), small)
