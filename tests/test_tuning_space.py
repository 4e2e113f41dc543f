"""What is searched: domains, the space file, what is refused."""

import json

import numpy as np
import pytest

from strokeseg_tf.config import SMALL
from tfrecord_tools.errors import InputError
from tuning.search_space import (
    SEARCH_SPACE,
    Choices,
    Range,
    apply_values,
    check_space,
    default_space,
    searched_config,
)
from tuning.space_file import read_space


def space_of(tmp_path, content, name="space.json"):
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return read_space(path, searched_config(SMALL))


def test_by_default_eq_1_is_searched_and_nothing_else():
    assert list(default_space()) == ["alpha", "gamma", "lesion_weight", "background_weight"]


@pytest.mark.parametrize("name", SEARCH_SPACE)
def test_every_value_of_a_domain_changes_the_configuration(name):
    base = SMALL.replace(augmentation={"elastic": [5, 1.5]})
    settings = [apply_values(base, {name: v}) for v in SEARCH_SPACE[name].domain.extremes]
    assert len({str(s) for s in settings}) == len(settings)
    assert all(type(s.replace(**s.to_dict())) is type(base) for s in settings)


def test_the_default_of_a_factor_leaves_the_configuration_as_it_is():
    for name in ("filters", "augmentation"):
        assert apply_values(SMALL, {name: SEARCH_SPACE[name].take(SMALL)}) == SMALL


def test_numbers_of_numpy_become_plain_ones():
    """A loss of numpy's doubles would not multiply with TensorFlow's floats."""
    config = apply_values(SMALL, {"alpha": np.float64(0.5), "filters": np.float64(2)})
    assert type(config.loss.alpha) is float and config.loss.alpha == 0.5
    assert config == SMALL.replace(**json.loads(json.dumps(config.to_dict())))


def test_a_file_narrows_widens_fixes_switches_on_and_off(tmp_path):
    space, fixed = space_of(
        tmp_path,
        {
            "alpha": [0.3, 0.9],
            "gamma": 2,
            "lesion_weight": {"low": 1, "high": 50, "sampling": "log"},
            "background_weight": False,
            "learning_rate": True,
            "filters": [1, 2],
        },
    )
    assert space == {
        "alpha": Range(0.3, 0.9),
        "lesion_weight": Range(1, 50, "log"),
        "learning_rate": SEARCH_SPACE["learning_rate"].domain,
        "filters": Choices((1.0, 2.0)),
    }
    assert fixed == {"gamma": 2.0}


def test_toml_says_the_same_as_json(tmp_path):
    toml = "alpha = [0.3, 0.9]\ngamma = 2\n[lesion_weight]\nchoices = [1, 3]\n"
    plain = {"alpha": [0.3, 0.9], "gamma": 2, "lesion_weight": {"choices": [1, 3]}}
    assert space_of(tmp_path, toml, "space.toml") == space_of(tmp_path, plain)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"alhpa": [0, 1]}, "unknown parameter 'alhpa'.*known: alpha, gamma"),
        ({"gamma": [3, 1]}, "gamma .*lower bound 3 is not below the upper bound 1"),
        ({"gamma": [1, 1]}, "not below"),
        ({"gamma": [1, 2, 3]}, "low.*high"),
        ({"gamma": {"low": 1}}, "low.*high"),
        ({"gamma": [-1, 3]}, "gamma must be in"),
        ({"alpha": [0.5, 1.5]}, "alpha must be in"),
        ({"alpha": "half"}, "alpha must be float"),
        ({"lesion_weight": [0, 3]}, "a log range starts above 0"),
        ({"gamma": {"low": 0, "high": 1, "sampling": "even"}}, "known: linear, log"),
        ({"filters": {"choices": [1]}}, "two or more"),
        ({"filters": {"low": 0.5, "high": 2}}, "choices"),
        ({"filters": ["wide", 1]}, "all numbers or all words"),
        ([1, 2], "holds no JSON object"),
        ("{", "name parameters"),
    ],
)
def test_what_cannot_be_searched_is_one_line(tmp_path, content, words):
    with pytest.raises(InputError, match=words) as caught:
        space_of(tmp_path, content)
    assert "space.json" in str(caught.value) and "\n" not in str(caught.value)


def test_an_empty_space_is_refused(tmp_path):
    space, _ = space_of(tmp_path, dict.fromkeys(default_space(), 1))
    with pytest.raises(InputError, match="empty"):
        check_space(space, SMALL)


def test_alpha_under_uniform_is_refused_with_the_reason(tmp_path):
    assert SMALL.loss.alpha_reading == "uniform"
    with pytest.raises(InputError, match="constant factor.*alpha = false"):
        check_space(default_space(), SMALL)
    check_space(default_space(), searched_config(SMALL))
    without, _ = space_of(tmp_path, {"alpha": False})
    check_space(without, SMALL)
    both, _ = space_of(tmp_path, {"alpha_reading": True})
    with pytest.raises(InputError, match="constant factor"):
        check_space(both, searched_config(SMALL))
