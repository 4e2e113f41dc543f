"""Studies unlike the training studies: what a run remembers of these, and when it speaks up."""

import dataclasses
import json

import numpy as np
import pytest

from strokeseg_tf.pipeline import load_slices
from strokeseg_tf.prediction.familiarity import study_features, summarise, unfamiliar
from strokeseg_tf.runs import Run
from tfrecord_tools.errors import InputError
from tfrecord_tools.grid import Grid
from tfrecord_tools.reader import read_studies


@pytest.fixture(scope="module")
def training(shards):
    slices = load_slices(shards, "train", modalities=("adc", "dwi"), rater="r1", size=16)
    return slices.description


@pytest.fixture(scope="module")
def study(shards):
    return next(read_studies(shards, "train"))


def test_what_is_read_slice_by_slice_is_what_whole_studies_show(training, shards):
    whole = summarise(study_features(s.images, s.grid) for s in read_studies(shards, "train"))
    assert training["studies"] == whole["studies"] == 4
    assert training["features"].keys() == whole["features"].keys()
    for name, ends in training["features"].items():
        assert ends == pytest.approx(whole["features"][name], rel=1e-5), name


def test_no_study_is_named_in_it(training, shards):
    text = json.dumps(training)
    assert not [s.study for s in read_studies(shards) if s.study in text]


def test_every_training_study_is_familiar(training, shards):
    for study in read_studies(shards, "train"):
        assert unfamiliar(study_features(study.images, study.grid), training) == {}


def _other_spacing(study):
    affine = study.grid.affine @ np.diag([1, 1, 0.3, 1])
    return dataclasses.replace(study, grid=Grid(study.grid.shape, affine))


def _metal(study):
    dwi = study.images["dwi"].copy()
    dwi[0, 0, 0] = 20 * dwi.max()
    return dataclasses.replace(study, images=study.images | {"dwi": dwi})


def _half_a_head(study):
    images = {m: volume[: len(volume) // 2] for m, volume in study.images.items()}
    return dataclasses.replace(study, images=images)


@pytest.mark.parametrize(
    ("change", "feature"),
    [
        (_other_spacing, "slice distance (mm)"),
        (_metal, "dwi mean"),
        (_half_a_head, "coverage (mm)"),
    ],
)
def test_a_changed_study_is_not(training, study, change, feature):
    changed = change(study)
    assert feature in unfamiliar(study_features(changed.images, changed.grid), training)


def test_the_unit_of_an_image_does_not_matter(training, study):
    images = {m: volume * np.float32(1e-3) for m, volume in study.images.items()}
    assert unfamiliar(study_features(images, study.grid), training) == {}


def test_a_run_keeps_it(training, tmp_path):
    run = Run(tmp_path)
    assert run.read_training_data() is None
    run.write_training_data(training)
    assert run.read_training_data() == training
    for damage in ("{", "[]", '{"features": {"a": [2, 1]}}'):
        run.training_data_file.write_text(damage)
        with pytest.raises(InputError, match=r"training_data\.json is damaged"):
            run.read_training_data()
