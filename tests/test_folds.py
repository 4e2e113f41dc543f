"""Cross-validation: what is learnt and what is validated on are never of one patient."""

import dataclasses
import json

import pytest

from strokeseg_tf.commands.fit import print_plan
from strokeseg_tf.config import SMALL
from strokeseg_tf.pipeline import load_slices, usable_studies
from strokeseg_tf.training import fit
from tfrecord_tools.conversion import convert
from tfrecord_tools.errors import InputError
from tfrecord_tools.shards import read_dataset_info

TINY = SMALL.replace(
    model={"variant": "unimodal", "modality": "adc", "filters": (2, 3), "image_size": 32},
    training={"epochs": 1},
)


def of_fold(fold):
    return TINY.replace(training={"fold": fold})


@pytest.fixture(scope="module")
def folded(cohort, tmp_path_factory):
    """Three folds of six training studies beside two test studies."""
    out = tmp_path_factory.mktemp("folds") / "shards"
    convert(cohort, out, shares={"train": 0.75, "test": 0.25}, folds=3)
    return out


def test_slices_of_a_fold_are_those_of_its_studies(folded):
    info = read_dataset_info(folded)
    counts = []
    for view in info.views:
        usable, left_out = usable_studies(folded, view, ("adc", "dwi"), "r1")
        assert usable == info.studies_of(view) and not left_out
        slices = load_slices(folded, view, modalities=("adc", "dwi"), rater="r1", size=16)
        assert len(slices) == sum(info.studies[study]["slices"] for study in usable)
        counts.append(len(slices))
    assert sum(counts[::2]) == 2 * sum(counts[1::2])


@pytest.mark.slow
def test_a_run_on_a_fold_is_kept_apart_from_others(folded, tmp_path):
    history = fit(folded, tmp_path / "run", of_fold(1), verbose=0)
    assert len(history) == 1 and "val_adc_dice" in history[0]
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["training"]["fold"] == 1
    with pytest.raises(InputError, match="training.fold 1 then, 2 now"):
        fit(folded, tmp_path / "run", of_fold(2), resume=True, verbose=0)


def test_a_fold_that_is_not_there_is_answered_with_those_that_are(folded, shards, tmp_path):
    with pytest.raises(InputError, match="no split 'fold3-validation'; it has .*fold2-validation"):
        fit(folded, tmp_path / "run", of_fold(3), verbose=0)
    with pytest.raises(InputError, match="no split 'fold0-validation'; it has train, validation"):
        fit(shards, tmp_path / "run", of_fold(0), verbose=0)
    assert not list(tmp_path.iterdir())


def test_the_plan_counts_the_studies_of_the_fold(folded, capsys):
    print_plan(folded, of_fold(0))
    assert "4 training studies" in capsys.readouterr().out


def test_a_fold_below_0_is_none():
    with pytest.raises(ValueError, match="fold must be in"):
        dataclasses.replace(TINY.training, fold=-1)
