"""Real studies: the three ISLES'22 cases through the whole chain."""

import json

import nibabel
import numpy as np
import pytest

from strokeseg_tf.cohort import predict_cohort
from strokeseg_tf.config import SMALL
from strokeseg_tf.engine.history import mean_dice
from strokeseg_tf.loading import load_predictor
from strokeseg_tf.training import fit
from tfrecord_tools.conversion import convert
from tfrecord_tools.layouts import find_studies


@pytest.fixture(scope="module")
def shards(isles22, tmp_path_factory):
    out = tmp_path_factory.mktemp("isles22") / "shards"
    report = convert(isles22, out, shares={"train": 1.0})
    assert report.skipped == {} and report.info.counts["train"]["studies"] == 3
    return out


def test_units_are_inferred_study_by_study(shards):
    info = json.loads((shards / "dataset_info.json").read_text())
    scales = {study.split("_")[0][-4:]: f["adc_scale"] for study, f in info["studies"].items()}
    assert scales == {"0001": 1.0, "0002": 1000.0, "0009": 1.0}


def test_they_train_and_predict_on_their_own_grid(isles22, shards, tmp_path):
    tiny = SMALL.replace(
        model={"filters": [2, 3], "bottleneck": 3, "image_size": 48}, training={"epochs": 1}
    )
    fit(shards, tmp_path / "run", tiny, verbose=0)
    studies = find_studies(isles22)
    predict_cohort(load_predictor(tmp_path / "run"), studies, tmp_path / "out", model="run")
    for files in studies:
        for modality, source in files.images.items():
            mask = nibabel.load(tmp_path / "out" / f"{files.study}_{modality}_mask.nii.gz")
            image = nibabel.load(source)
            assert mask.shape == image.shape
            np.testing.assert_array_equal(mask.affine, image.affine)
            assert mask.get_data_dtype() == np.uint8


@pytest.mark.slow
def test_the_small_preset_learns_three_cases_by_heart(shards, tmp_path):
    """Nothing between file and mask is broken; no claim of accuracy."""
    config = SMALL.replace(training={"epochs": 80})
    history = fit(shards, tmp_path / "run", config)
    assert mean_dice(max(history, key=mean_dice)) >= 0.80
