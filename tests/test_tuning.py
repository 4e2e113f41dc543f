"""The search: trials are runs, the best configuration is one that `fit` takes."""

import csv

import pytest

from strokeseg_tf.config import SMALL, read_config
from tfrecord_tools.errors import InputError
from tuning.search import BEST_CONFIG, search
from tuning.search_space import SEARCH_SPACE, apply_values, searched_config

TINY = SMALL.replace(
    model={
        "variant": "unimodal",
        "modality": "dwi",
        "filters": [2, 3],
        "bottleneck": 4,
        "image_size": 32,
    },
    training={"epochs": 1, "batch_size": 4},
)


def test_a_search_keeps_its_trials_goes_on_and_names_the_best(shards, tmp_path):
    first = search(shards, tmp_path / "search", TINY, trials=1, tuner="random")
    both = search(shards, tmp_path / "search", TINY, trials=2, tuner="random", resume=True)
    assert [t["trial"] for t in first["trials"]][0] in {t["trial"] for t in both["trials"]}
    assert len(both["trials"]) == 2
    scores = [trial["mean_validation_dice"] for trial in both["trials"]]
    assert scores == sorted(scores, reverse=True)
    with open(tmp_path / "search" / "trials.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 2
    best = read_config(tmp_path / "search" / BEST_CONFIG, SMALL)
    assert best == both["best"] == apply_values(searched_config(TINY), both["trials"][0])
    with pytest.raises(InputError, match="--overwrite"):
        search(shards, tmp_path / "search", TINY, trials=1)


@pytest.mark.slow
def test_the_default_tuner_searches(shards, tmp_path):
    result = search(shards, tmp_path / "search", TINY, trials=2)
    assert len(result["trials"]) == 2


def test_alpha_is_searched_where_it_matters():
    assert searched_config(TINY).loss.alpha_reading == "balanced"
    assert {p.section for p in SEARCH_SPACE.values()} == {"loss"}


def test_an_unknown_tuner_is_answered_with_the_known_ones(tmp_path):
    with pytest.raises(InputError, match="bayesian, random"):
        search("nowhere", tmp_path, TINY, tuner="unheard-of")
