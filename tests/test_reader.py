"""Shards as `tf.data`, and as whole studies."""

import itertools
import shutil

import numpy as np
import pytest
import tensorflow as tf

from tfrecord_tools.errors import InputError
from tfrecord_tools.layouts import find_studies
from tfrecord_tools.reader import read_slice_pairs, read_studies, shards_of
from tfrecord_tools.shards import read_dataset_info
from tfrecord_tools.study import read_study


def assert_same_study(study, expected):
    assert (study.study, study.patient, study.group) == (
        expected.study,
        expected.patient,
        expected.group,
    )
    assert study.adc_scale == expected.adc_scale and study.grid.shape == expected.grid.shape
    np.testing.assert_array_equal(study.grid.affine, expected.grid.affine)
    for found, wanted in ((study.images, expected.images), (study.masks, expected.masks)):
        assert found.keys() == wanted.keys()
        for key in wanted:
            np.testing.assert_array_equal(found[key], wanted[key])


def test_the_studies_in_the_shards_are_those_of_the_files(cohort, shards):
    files = {f.study: f for f in find_studies(cohort)}
    studies = list(read_studies(shards))
    assert {study.study for study in studies} == files.keys()
    for study in studies:
        assert_same_study(study, read_study(files[study.study]))


def test_a_split_gives_its_studies_in_the_order_of_the_manifest(shards):
    for split, names in read_dataset_info(shards).splits.items():
        assert [study.study for study in read_studies(shards, split)] == names


def test_slice_pairs_are_the_slices_of_the_studies_in_order(shards):
    slices = (
        (study, index)
        for study in read_studies(shards, "train")
        for index in range(len(study.images["adc"]))
    )
    for pair, (study, index) in itertools.zip_longest(read_slice_pairs(shards, "train"), slices):
        assert pair["study"].numpy().decode() == study.study
        assert pair["slice_index"] == index
        names = [name.decode() for name in pair["mask_names"].numpy()]
        assert names == ["r1_adc", "r1_dwi", "r2_adc", "r2_dwi"]
        for modality in ("adc", "dwi"):
            np.testing.assert_array_equal(pair[modality], study.images[modality][index])
        for name, mask in zip(names, pair["masks"].numpy(), strict=True):
            np.testing.assert_array_equal(mask, study.masks[tuple(name.split("_"))][index])


def test_slice_pairs_know_their_number(shards):
    for split, count in read_dataset_info(shards).counts.items():
        assert read_slice_pairs(shards, split).cardinality() == count["slice_pairs"]


def test_a_shard_cut_between_two_records_is_refused(shards, tmp_path):
    copy = shutil.copytree(shards, tmp_path / "copy")
    (path,) = shards_of(copy, read_dataset_info(copy), "train")
    records = list(tf.data.TFRecordDataset(str(path)).as_numpy_iterator())
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records[:-1]:
            writer.write(record)
    with pytest.raises(InputError, match="differs from its checksum"):
        read_slice_pairs(copy, "train")


@pytest.mark.parametrize("read", [read_slice_pairs, lambda *args: list(read_studies(*args))])
def test_an_unknown_split_is_refused_with_the_known_ones(shards, read):
    with pytest.raises(InputError, match="no split 'dev'; it has train, validation, test"):
        read(shards, "dev")
