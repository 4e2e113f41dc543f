"""ICC and limits of agreement against the papers that introduced them, and their laws."""

from math import sqrt

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from strokeseg_tf.evaluation.reliability import bland_altman, icc_absolute_agreement, paired

# Shrout and Fleiss (1979), table 2: six targets rated by four judges.
SHROUT_FLEISS = np.array(
    [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]
)
# Bland and Altman (1986), table 1: first PEFR (l/min) by the Wright meter and by the mini meter.
WRIGHT = [494, 395, 516, 434, 476, 557, 413, 442, 650, 433, 417, 656, 267, 478, 178, 423, 427]
MINI = [512, 430, 520, 428, 500, 600, 364, 380, 658, 445, 432, 626, 260, 477, 259, 350, 451]

VOLUMES = arrays(float, (6, 2), elements=st.integers(0, 40).map(float))


def test_icc_of_shrout_and_fleiss():
    """0.29 in their table 4; R's psych prints the interval 0.019 to 0.76 of McGraw and Wong."""
    found = icc_absolute_agreement(SHROUT_FLEISS)
    assert round(found["value"], 2) == 0.29 and found["name"] == "ICC(2,1)"
    assert (round(found["lower"], 3), round(found["upper"], 2)) == (0.019, 0.76)


@given(VOLUMES)
@settings(max_examples=60, deadline=None)
def test_icc_equals_its_variance_components(ratings):
    n, k = ratings.shape
    mean = ratings.mean()
    total = ((ratings - mean) ** 2).sum()
    subjects = k * sum((row.mean() - mean) ** 2 for row in ratings)
    raters = n * sum((column.mean() - mean) ** 2 for column in ratings.T)
    rows, columns = subjects / (n - 1), raters / (k - 1)
    rest = (total - subjects - raters) / ((n - 1) * (k - 1))
    found = icc_absolute_agreement(ratings)
    if total == 0:
        assert found["value"] is None
        return
    between, bias = (rows - rest) / k, (columns - rest) / n
    assert found["value"] == pytest.approx(between / (between + bias + rest), abs=1e-9)


@given(VOLUMES, st.floats(0.1, 100), st.floats(-50, 50))
@settings(max_examples=60, deadline=None)
def test_icc_keeps_under_a_change_of_unit_and_of_order(ratings, factor, shift):
    assume(np.ptp(ratings) > 0)
    found = icc_absolute_agreement(ratings)
    for changed in (ratings * factor + shift, ratings[:, ::-1], ratings[::-1]):
        again = icc_absolute_agreement(changed)
        assert again["value"] == pytest.approx(found["value"], abs=1e-6)
        if found["lower"] is not None:
            assert again["lower"] == pytest.approx(found["lower"], abs=1e-5)
            assert found["lower"] - 1e-9 <= found["value"] <= found["upper"] + 1e-9


def test_raters_of_one_mind_have_an_icc_of_one_and_no_interval():
    found = icc_absolute_agreement([[1, 1], [5, 5], [2.5, 2.5]])
    assert found["value"] == 1 and found["lower"] is found["upper"] is None


def test_raters_who_each_give_one_rating_to_all_have_an_icc_of_nought_and_no_interval():
    found = icc_absolute_agreement([[1.5, 0.5], [1.5, 0.5], [1.5, 0.5]])
    assert found["value"] == 0 and found["lower"] is found["upper"] is None


def test_a_constant_difference_lowers_the_icc():
    first = np.array([1.0, 5, 2.5, 9])
    values = [icc_absolute_agreement(np.transpose([first, first + d]))["value"] for d in (0, 1, 4)]
    assert values[0] == 1 > values[1] > values[2] > 0


@pytest.mark.parametrize("ratings", [np.zeros((0, 2)), [[1, 2]], [[3, 3], [3, 3]]])
def test_what_has_no_icc_is_none(ratings):
    found = icc_absolute_agreement(ratings)
    assert found == {"value": None, "lower": None, "upper": None, "name": "ICC(2,1)"}


@pytest.mark.parametrize("ratings", [[1, 2], [[1], [2]], [[1, np.nan], [2, 3]]])
def test_what_is_no_table_of_ratings_is_refused(ratings):
    with pytest.raises(ValueError, match="Received"):
        icc_absolute_agreement(ratings)


def test_bland_altman_of_the_peak_flow_meters():
    """The 1986 paper: -2.1, sd 38.8, bias from -22.0 to 17.8 l/min."""
    found = bland_altman(WRIGHT, MINI)
    assert (found["n"], round(found["bias"], 1), round(found["sd"], 1)) == (17, -2.1, 38.8)
    assert [round(end, 1) for end in found["bias_ci"]] == [-22.0, 17.8]
    # The paper takes 2 for 1.96: limits -79.7 and 75.5, standard error sqrt(3 / n) sd = 16.3.
    assert found["bias"] - 2 * found["sd"] == pytest.approx(-79.7, abs=0.1)
    assert found["bias"] + 2 * found["sd"] == pytest.approx(75.5, abs=0.1)
    error = (found["lower_ci"][1] - found["lower"]) / 2.12
    assert error == pytest.approx(16.3, rel=0.02)


def test_bland_altman_of_the_blood_pressures():
    """The 1999 paper, section 2: n 85, mean -16.29, sd 19.61 mmHg; limits -54.7 and 22.1."""
    scale = np.linspace(-1, 1, 85)
    differences = -16.29 + 19.61 * scale / scale.std(ddof=1)
    found = bland_altman(differences, np.zeros(85))
    assert [round(found[name], 1) for name in ("lower", "upper")] == [-54.7, 22.1]
    # Their standard errors: 2.13 of the bias, 3.64 of a limit.
    t = 1.989
    assert (found["bias_ci"][1] - found["bias"]) / t == pytest.approx(2.13, abs=0.01)
    assert (found["upper_ci"][1] - found["upper"]) / t == pytest.approx(3.64, abs=0.01)


def test_bland_altman_equals_its_definition_and_turns_round():
    rng = np.random.default_rng(1)
    first, second = rng.random((2, 12))
    found, turned = bland_altman(first, second), bland_altman(second, first)
    d = first - second
    assert found["bias"] == pytest.approx(np.mean(d)) == -turned["bias"]
    assert found["upper"] == pytest.approx(d.mean() + 1.96 * sqrt(((d - d.mean()) ** 2).sum() / 11))
    assert found["upper"] == pytest.approx(-turned["lower"])
    assert found["upper_ci"] == pytest.approx([-end for end in turned["lower_ci"][::-1]])


def test_too_few_pairs_have_no_limits():
    nothing, one = bland_altman([], []), bland_altman([3.0, np.nan], [1.0, 2.0])
    assert nothing["n"] == 0 and nothing["bias"] is None
    assert (one["n"], one["bias"], one["sd"], one["upper"]) == (1, 2.0, None, None)
    assert one["bias_ci"] == one["upper_ci"] == [None, None]


def test_pairs_are_complete_and_equal_where_equal_on_paper():
    assert paired([0.3, np.nan, 1, 0.4], [0.1, 1, np.nan, 0.2]).tolist() == [0.2, 0.2]
    with pytest.raises(ValueError, match="one length"):
        paired([1, 2], [1])
