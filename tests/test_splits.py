"""No patient in two splits, ever; shares and strata kept."""

import itertools
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfrecord_tools.errors import InputError
from tfrecord_tools.splits import (
    DEFAULT_SHARES,
    SplitItem,
    check_no_leak,
    read_split_file,
    split_folds,
    split_studies,
)

seeds = st.integers(0, 2**32)
volumes = st.floats(0, 300)
groups = st.sampled_from(["stroke", "control", "unknown"])


@st.composite
def cohorts(draw, least=0):
    """Studies of patients who may have been scanned several times."""
    drawn = draw(st.lists(st.tuples(groups, volumes), min_size=least, max_size=40))
    patients = draw(st.integers(1, 40))
    return [SplitItem(f"s{i}", f"p{i % patients}", g, v) for i, (g, v) in enumerate(drawn)]


@st.composite
def shares(draw):
    weights = draw(st.lists(st.integers(1, 10), min_size=1, max_size=4))
    return {f"split{i}": weight / sum(weights) for i, weight in enumerate(weights)}


def one_study_a_patient(count, controls):
    return [
        SplitItem(f"s{i:03d}", f"p{i:03d}", "control" if i < controls else "stroke", float(i))
        for i in range(count)
    ]


@given(cohorts(), shares(), seeds)
def test_no_patient_stands_in_two_splits(items, shares, seed):
    splits = split_studies(items, shares, seed)
    assert splits.keys() == {item.study for item in items}
    check_no_leak(splits, {item.study: item.patient for item in items}, "the splits")


@given(cohorts(least=2), seeds, st.randoms())
def test_the_order_of_the_studies_does_not_matter(items, seed, order):
    shuffled = order.sample(items, len(items))
    assert split_studies(items, DEFAULT_SHARES, seed) == split_studies(
        shuffled, DEFAULT_SHARES, seed
    )


@given(st.integers(0, 200), shares(), seeds)
def test_counts_are_those_of_the_shares(count, shares, seed):
    splits = split_studies(one_study_a_patient(count, count // 10), shares, seed)
    counts = Counter(splits.values())
    assert all(abs(counts[s] - share * count) <= len(shares) for s, share in shares.items())
    if count >= len(shares):
        assert counts.keys() == shares.keys()


def test_the_papers_shares_give_the_papers_counts():
    splits = split_studies(one_study_a_patient(82, 7), DEFAULT_SHARES, seed=0)
    assert Counter(splits.values()) == {"train": 41, "validation": 11, "test": 30}


@given(seeds)
@settings(max_examples=30)
def test_volumes_and_controls_are_spread_over_the_splits(seed):
    items = one_study_a_patient(200, 20)
    splits = split_studies(items, {"train": 0.5, "validation": 0.2, "test": 0.3}, seed)
    for split, expected in {"train": 10, "validation": 4, "test": 6}.items():
        members = [item for item in items if splits[item.study] == split]
        assert abs(sum(item.group == "control" for item in members) - expected) <= 2
        mean = sum(item.lesion_ml for item in members) / len(members)
        assert mean == pytest.approx(99.5, abs=5)


def test_another_seed_gives_other_splits():
    items = one_study_a_patient(40, 4)
    splits = [split_studies(items, DEFAULT_SHARES, seed) for seed in range(5)]
    assert all(one != other for one, other in itertools.combinations(splits, 2))


@pytest.mark.parametrize(
    "wrong",
    [{}, {"train": 0.5}, {"train": 0.7, "test": 0.7}, {"train": 1.5, "test": -0.5}]
    + [{"train": 1.0, "test": 0.0}, {"train": float("nan"), "test": 0.5}],
)
def test_wrong_shares_are_refused(wrong):
    with pytest.raises(InputError, match="split shares must"):
        split_studies(one_study_a_patient(10, 1), wrong, seed=0)


# Folds


@given(cohorts(least=2), st.integers(2, 6), seeds)
def test_no_patient_stands_in_two_folds(items, folds, seed):
    patients = {item.study: item.patient for item in items}
    if folds > len(set(patients.values())):
        with pytest.raises(InputError, match="choose --folds"):
            split_folds(items, folds, seed)
        return
    dealt = split_folds(items, folds, seed)
    assert dealt.keys() == patients.keys() and set(dealt.values()) == set(range(folds))
    check_no_leak({s: str(fold) for s, fold in dealt.items()}, patients, "the folds")
    assert dealt == split_folds(items[::-1], folds, seed)


@given(st.integers(5, 100), st.integers(2, 5), seeds)
@settings(max_examples=40)
def test_folds_are_of_equal_size_and_share_the_controls(count, folds, seed):
    items = one_study_a_patient(count, count // 4)
    dealt = split_folds(items, folds, seed)
    sizes = Counter(dealt.values())
    assert max(sizes.values()) - min(sizes.values()) <= 1
    controls = Counter(dealt[item.study] for item in items if item.group == "control")
    assert max(controls[f] for f in sizes) - min(controls[f] for f in sizes) <= 2


# Split files

ITEMS = [SplitItem(study, study[0], "stroke", 1.0) for study in ("a1", "a2", "b1")]


def split_file(folder, text, encoding="utf-8"):
    path = folder / "splits.csv"
    path.write_text(text, encoding=encoding)
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_split_file_is_followed(tmp_path, encoding):
    rows = ["split,study", "train,a1", " train , a2 ", "mine,b1", "test,someone else"]
    path = split_file(tmp_path, "\n".join(rows), encoding)
    assert read_split_file(path, ITEMS) == {"a1": "train", "a2": "train", "b1": "mine"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "columns study, split"),
        ("study,part\na1,train\n", "columns study, split"),
        ("study,split\na1,train\na2,train\n", "no split for b1"),
        ("study,split\na1,train\na2,train\nb1,\n", "no split for b1"),
        ("study,split\na1,train\na2,train\nb1\n", "no split for b1"),
        ("study,split\na1,train\na2,train\nb1,test\nb1,train\n", "study b1 into test and train"),
        ("study,split\na1,train\na2,test\nb1,test\n", "patient a stands in .* train and test"),
    ],
)
def test_a_wrong_split_file_is_refused(tmp_path, text, words):
    with pytest.raises(InputError, match=words) as refusal:
        read_split_file(split_file(tmp_path, text), ITEMS)
    assert "splits.csv" in str(refusal.value)


def test_a_split_file_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(InputError, match="nowhere.csv"):
        read_split_file(tmp_path / "nowhere.csv", ITEMS)
    with pytest.raises(InputError, match="UTF-8"):
        read_split_file(split_file(tmp_path, "study,split\né,train", "latin-1"), ITEMS)
