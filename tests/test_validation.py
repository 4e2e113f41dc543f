"""Validation studies are read once where they are small, and give the same figures."""

import shutil

import pytest

from strokeseg_tf.config import PAPER
from strokeseg_tf.losses import FocalLoss
from strokeseg_tf.models.variants import build_model
from strokeseg_tf.prediction.keras_engine import KerasEngine
from strokeseg_tf.prediction.network import NetworkPredictor
from strokeseg_tf.validation import PreparedStudies, validate, validate_prepared

SETTINGS = {"image_size": 32, "filters": [2, 3], "bottleneck": 4}


@pytest.fixture(scope="module")
def predictor():
    return NetworkPredictor(KerasEngine(build_model(PAPER.replace(model=SETTINGS).model)))


def test_kept_studies_give_the_figures_of_those_read_again(predictor, shards, tmp_path):
    folder = shutil.copytree(shards, tmp_path / "shards")
    fresh = validate(predictor, FocalLoss(), folder, "validation", "r1")
    studies = PreparedStudies(predictor, folder, "validation", "r1")
    assert validate_prepared(predictor, FocalLoss(), studies) == fresh
    shutil.rmtree(folder)
    assert validate_prepared(predictor, FocalLoss(), studies) == fresh


def test_studies_beyond_the_limit_are_read_again(predictor, shards, tmp_path):
    folder = shutil.copytree(shards, tmp_path / "shards")
    sizes = [s.size_bytes for s in PreparedStudies(predictor, folder, "validation", "r1")]
    for limit, kept in ((sum(sizes), True), (sum(sizes) - 1, False)):
        studies = PreparedStudies(predictor, folder, "validation", "r1", limit_bytes=limit)
        assert [s.size_bytes for s in studies] == sizes
        hidden = folder.rename(tmp_path / "hidden")
        if kept:
            assert [s.size_bytes for s in studies] == sizes
        else:
            with pytest.raises(ValueError, match="no shards folder"):
                list(studies)
        hidden.rename(folder)


def test_a_walk_that_stops_early_keeps_nothing_half(predictor, shards):
    studies = PreparedStudies(predictor, shards, "validation", "r1")
    next(iter(studies))
    assert len(list(studies)) == len(list(studies)) == 2
