"""A shards folder tells whether it is whole."""

import json
import shutil

import numpy as np
import pytest
import tensorflow as tf

from strokeseg_tf.cli import main
from tfrecord_tools.errors import InputError
from tfrecord_tools.framing import frame, read_frames
from tfrecord_tools.integrity import check_shards, find_problems
from tfrecord_tools.reader import read_studies
from tfrecord_tools.schema import decode, encode
from tfrecord_tools.shards import MANIFEST, read_dataset_info, sha256_of, shard_name

TRAIN = "train-00000-of-00001.tfrecord"


@pytest.fixture
def copy(shards, tmp_path):
    """Shards that a test may damage."""
    return shutil.copytree(shards, tmp_path / "copy")


def rewrite_manifest(folder, change):
    content = json.loads((folder / MANIFEST).read_text())
    change(content)
    (folder / MANIFEST).write_text(json.dumps(content))


def sign(folder):
    """Give the manifest the checksum of a shard as it is now."""
    digest = sha256_of(folder / TRAIN)
    rewrite_manifest(folder, lambda content: content["shards"][TRAIN].update(sha256=digest))


def refusal(folder, read=check_shards):
    with pytest.raises(InputError) as caught:
        read(folder)
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)
    return str(caught.value)


def read_all(folder):
    return list(read_studies(folder))


def test_whole_shards_pass(shards):
    info = check_shards(shards)
    assert info.counts["train"]["studies"] == 4
    assert sum(count["slice_pairs"] for count in info.counts.values()) == sum(
        shard["records"] for shard in info.shards.values()
    )
    assert {path.name for path in shards.iterdir()} == {MANIFEST, *info.shards}


def test_the_manifest_is_read_as_it_was_written(shards, tmp_path):
    info = read_dataset_info(shards)
    info.write(tmp_path)
    assert read_dataset_info(tmp_path) == info
    assert (tmp_path / MANIFEST).read_bytes() == (shards / MANIFEST).read_bytes()


def test_a_flipped_bit_is_found_wherever_it_is(copy):
    content = (copy / TRAIN).read_bytes()
    rng = np.random.default_rng(0)
    for position in (0, 8, len(content) - 1, *rng.integers(0, len(content), 50)):
        damaged = bytearray(content)
        damaged[position] ^= 1 << rng.integers(8)
        (copy / TRAIN).write_bytes(damaged)
        assert f"{TRAIN} is damaged" in refusal(copy)


@pytest.mark.parametrize("read", [check_shards, read_all])
def test_a_truncated_shard_is_found(copy, read):
    content = (copy / TRAIN).read_bytes()
    for length in (0, 11, len(content) // 2, len(content) - 1):
        (copy / TRAIN).write_bytes(content[:length])
        assert f"{TRAIN} is damaged" in refusal(copy, read)


@pytest.mark.parametrize("read", [check_shards, read_all])
def test_a_shard_that_lost_its_last_study_is_found(copy, read):
    """Cut between two records, so that every CRC holds."""
    slices = read_dataset_info(copy).studies[read_dataset_info(copy).splits["train"][-1]]["slices"]
    records = list(tf.data.TFRecordDataset(str(copy / TRAIN)).as_numpy_iterator())
    with tf.io.TFRecordWriter(str(copy / TRAIN)) as writer:
        for record in records[:-slices]:
            writer.write(record)
    assert f"{TRAIN} is damaged" in refusal(copy, read)


@pytest.mark.parametrize("read", [check_shards, read_all])
def test_records_of_another_program_are_refused(copy, read):
    records = read_dataset_info(copy).shards[TRAIN]["records"]
    with tf.io.TFRecordWriter(str(copy / TRAIN)) as writer:
        for _ in range(records):
            writer.write(b"\x0a\x00")
    sign(copy)
    assert f"{TRAIN} holds a record that is no slice pair" in refusal(copy, read)


@pytest.mark.parametrize("read", [check_shards, read_all])
def test_a_missing_shard_is_named(copy, read):
    (copy / TRAIN).unlink()
    assert f"{TRAIN} is missing" in refusal(copy, read)


@pytest.mark.parametrize("read", [check_shards, read_all, read_dataset_info])
def test_a_folder_without_manifest_is_unfinished(copy, read):
    (copy / MANIFEST).unlink()
    assert "is unfinished" in refusal(copy, read)


def test_no_folder_is_no_shards(tmp_path):
    assert "is no shards folder" in refusal(tmp_path / "nowhere", read_dataset_info)


@pytest.mark.parametrize("content", ["", "{", "[]", "3", '{"schema_version": 1}', "\xff"])
def test_a_manifest_that_is_none_is_refused(copy, content):
    (copy / MANIFEST).write_text(content, encoding="latin-1")
    assert f"{MANIFEST} is damaged" in refusal(copy)


def test_shards_of_another_schema_are_refused(copy):
    rewrite_manifest(copy, lambda content: content.update(schema_version=99))
    assert "schema version 99, this software reads 2" in refusal(copy)


def first(content):
    return content["splits"]["train"][0]


ALTERATIONS = {
    "checksum": lambda c: c["shards"][TRAIN].update(sha256="0" * 64),
    "records": lambda c: c["shards"][TRAIN].update(records=3),
    "shard forgotten": lambda c: c["shards"].pop(TRAIN),
    "shard elsewhere": lambda c: c["shards"].update({"../x": c["shards"][TRAIN]}),
    "shard of another split": lambda c: c["shards"][TRAIN].update(split="test"),
    "study forgotten": lambda c: c["studies"].pop(first(c)),
    "split forgotten": lambda c: (c["splits"].pop("test"), c["counts"].pop("test")),
    "study made up": lambda c: c["studies"].update(ghost=c["studies"][first(c)]),
    "study without split": lambda c: c["splits"]["train"].pop(),
    "study in another split": lambda c: c["splits"]["test"].append(c["splits"]["train"].pop()),
    "slices": lambda c: c["studies"][first(c)].update(slices=99),
    "patient": lambda c: c["studies"][first(c)].update(patient="another"),
    "no patient": lambda c: c["studies"][first(c)].pop("patient"),
    "counts": lambda c: c["counts"]["train"].update(studies=5),
    "splits as a list": lambda c: c.update(splits=["train"]),
    "unknown key": lambda c: c.update(surprise=1),
}


@pytest.mark.parametrize("change", ALTERATIONS.values(), ids=ALTERATIONS)
def test_an_altered_manifest_is_found(copy, change):
    rewrite_manifest(copy, change)
    refusal(copy)


def counted_anew(content):
    """What a cunning hand would also alter."""
    for split, names in content["splits"].items():
        groups = [content["studies"][name]["group"] for name in names]
        content["counts"][split] = {
            "studies": len(names),
            "slice_pairs": sum(content["studies"][name]["slices"] for name in names),
            **{group: groups.count(group) for group in set(groups)},
        }
        shard = content["shards"][shard_name(split, 0, 1)]
        shard["records"] = content["counts"][split]["slice_pairs"]


def test_a_patient_in_two_splits_is_found(copy):
    def leak(content):
        for split in ("train", "test"):
            content["studies"][content["splits"][split][0]]["patient"] = "Nobody"

    rewrite_manifest(copy, leak)
    assert "patient Nobody stands in the splits train and test" in refusal(copy)


def test_a_study_in_two_splits_is_found(copy):
    def leak(content):
        content["splits"]["test"].append(first(content))
        counted_anew(content)

    rewrite_manifest(copy, leak)
    assert "stands in the splits train and test" in refusal(copy)


def test_records_that_only_the_manifest_knows_are_missed(copy):
    def invent(content):
        content["studies"]["ghost"] = content["studies"][first(content)] | {"patient": "ghost"}
        content["splits"]["train"].append("ghost")
        counted_anew(content)

    rewrite_manifest(copy, invent)
    assert f"{TRAIN} is damaged" in refusal(copy)


def test_a_shard_is_named_after_its_split():
    assert shard_name("train", 3, 12) == "train-00003-of-00012.tfrecord"


@pytest.mark.parametrize("split", ["", "../train", "a/b", "a b", ".", "x" * 65])
def test_a_split_that_is_no_file_name_is_refused(split):
    with pytest.raises(InputError, match="needs another name"):
        shard_name(split, 0, 1)


def test_a_study_that_took_the_slices_of_another_is_found(copy):
    """All sums hold; only counting slices by study tells."""

    def shift(content):
        one, other = content["splits"]["train"][:2]
        content["studies"][one]["slices"] += 1
        content["studies"][other]["slices"] -= 1

    rewrite_manifest(copy, shift)
    assert "slices of study" in refusal(copy)


def test_all_problems_are_told_together(copy):
    """Damage in two shards and a patient in two splits: one sentence each."""

    def leak(content):
        for split in ("train", "validation"):
            content["studies"][content["splits"][split][0]]["patient"] = "Nobody"

    rewrite_manifest(copy, leak)
    for split in ("train", "test"):
        path = copy / shard_name(split, 0, 1)
        path.write_bytes(path.read_bytes()[:-1])
    problems = list(find_problems(copy, read_dataset_info(copy)))
    told = " ".join(problems)
    assert "patient Nobody" in told
    for name in (TRAIN, shard_name("test", 0, 1)):
        assert f"{name} is damaged (it differs" in told and f"{name} is damaged (record" in told
    assert f"{copy} has {len(problems)} problems: (1) patient Nobody" in refusal(copy)


def test_inspect_lists_problems_as_json(copy, capsys):
    (copy / TRAIN).unlink()
    assert main(["inspect", str(copy), "--json"]) == 2
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert not found["ok"] and f"{TRAIN} is missing" in found["problems"][0]
    assert printed.err == f"strokeseg-tf: error: {found['problems'][0]}\n"


def forge(folder, change):
    """Change the decoded records of a shard, with right CRCs and a right checksum."""
    records = [decode(payload) for payload in read_frames(folder / TRAIN)]
    change(records)
    (folder / TRAIN).write_bytes(b"".join(frame(encode(record)) for record in records))
    sign(folder)


FORGERIES = {
    "slices swapped": lambda rs: rs.insert(0, rs.pop(1)),
    "another scale": lambda rs: rs[0].update(adc_scale=np.float64(2)),
    "another group": lambda rs: [r.update(group="other") for r in rs],
    "a voxel beyond the range": lambda rs: rs[2].update(dwi=rs[2]["dwi"] + np.float32(1e6)),
    "no number": lambda rs: rs[2].update(adc=rs[2]["adc"] * np.float32(np.nan)),
    "modalities swapped": lambda rs: [r.update(adc=r["dwi"], dwi=r["adc"]) for r in rs],
    "an affine that places nothing": lambda rs: [r.update(affine=r["affine"] * 0) for r in rs],
    "another file shape": lambda rs: [r.update(file_shape=r["file_shape"] + 1) for r in rs],
    "half an ADC grid": lambda rs: [r.update(adc_affine=r["affine"]) for r in rs],
    "raters swapped": lambda rs: [r.update(mask_names=r["mask_names"][::-1]) for r in rs],
    "no DWI": lambda rs: [r.update(dwi=None, dwi_range=None) for r in rs],
}


@pytest.mark.parametrize("change", FORGERIES.values(), ids=FORGERIES)
@pytest.mark.parametrize("read", [check_shards, read_all])
def test_records_that_make_up_no_study_are_refused(copy, change, read):
    forge(copy, change)
    assert f"{TRAIN}: study " in refusal(copy, read)
