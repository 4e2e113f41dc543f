"""The statistics of an evaluation: which studies enter, with whom, and what the numbers are."""

import json
import subprocess
import sys
from math import inf, nan

import numpy as np
import pytest

from strokeseg_tf.evaluation.comparison import bootstrap_intervals, compare_paired, holm
from strokeseg_tf.evaluation.reliability import bland_altman
from strokeseg_tf.evaluation.scores import SCORE_KEYS
from strokeseg_tf.evaluation.statistics import INTERVAL_METRICS, SIZE_BINS, run_statistics

STUDIES = [f"s{number}" for number in range(12)]
VOLUMES = [0.0, 0.5, 0.999, 1.0, 3.0, 4.9, 5.0, 12.0, 19.9, 20.0, 80.0, 200.0]
DEFINED = [study for study in STUDIES if study != "s3"]  # The Dice of run b is NaN in s3.


def score_rows(runs=("a", "b", "c"), modalities=("adc", "dwi"), raters=("r1", "r2")):
    """Random scores of twelve stroke studies and a control; run c has ADC only."""
    rng = np.random.default_rng(0)
    rows = []
    for run in runs:
        for modality in modalities:
            for rater in raters:
                if (run, modality) == ("c", "dwi"):
                    continue
                for study, volume in zip([*STUDIES, "control"], [*VOLUMES, 0.0], strict=True):
                    scores = dict(zip(SCORE_KEYS, rng.random(len(SCORE_KEYS)), strict=True))
                    labels = {"run": run, "variant": "dual_v1", "study": study}
                    labels |= {"group": "control" if study == "control" else "stroke"}
                    row = {**labels, "modality": modality, "rater": rater, **scores}
                    row["reference_volume_ml"] = volume
                    if (run, study) == ("b", "s3"):
                        row["dice"] = nan
                    if study in ("s0", "control"):
                        row["hd95_mm"] = row["assd_mm"] = nan
                    rows.append(row)
    return rows


def agreement_rows(pairs=(("r1", "r2"),), modalities=("adc", "dwi")):
    """Random Dice between raters; s11 was drawn by one rater only."""
    rng = np.random.default_rng(1)
    labels = {"kind": "raters", "rater": None}
    rows = [
        {**labels, "study": s, "modality": m, "pair": list(pair), "dice": float(rng.random())}
        for s in [*STUDIES[:-1], "control"]
        for m in modalities
        for pair in pairs
    ]
    other = {"kind": "modalities", "modality": None, "rater": "r1", "pair": ["adc", "dwi"]}
    return [*rows, {**other, "study": "s0", "dice": 0.5}]


@pytest.fixture(scope="module")
def statistics():
    return run_statistics(score_rows(), agreement_rows())


def values(run, modality, rater, metric, studies=STUDIES):
    found = {
        row["study"]: row[metric]
        for row in score_rows()
        if (row["run"], row["modality"], row["rater"]) == (run, modality, rater)
    }
    return [found[study] for study in studies]


def reference_dice(modality, studies):
    found = {row["study"]: row["dice"] for row in agreement_rows() if row["modality"] == modality}
    return [found[study] for study in studies]


def test_they_are_ready_for_json_and_the_same_every_time(statistics):
    assert json.loads(json.dumps(statistics, allow_nan=False)) == statistics
    assert run_statistics(score_rows(), agreement_rows()) == statistics


def test_every_two_runs_are_compared_where_both_have_scores(statistics):
    found = {
        (e["modality"], e["rater"], e["first"], e["second"], e["metric"])
        for e in statistics["between_runs"]
    }
    pairs = {"adc": [("a", "b"), ("a", "c"), ("b", "c")], "dwi": [("a", "b")]}
    assert found == {
        (modality, rater, *pair, metric)
        for modality in pairs
        for rater in ("r1", "r2")
        for pair in pairs[modality]
        for metric in ("dice", "precision", "sensitivity")
    }
    assert len(statistics["between_runs"]) == len(found)


def test_runs_are_compared_on_the_stroke_studies_that_both_have(statistics):
    for entry in statistics["between_runs"]:
        one, other = (
            values(run, entry["modality"], entry["rater"], entry["metric"])
            for run in (entry["first"], entry["second"])
        )
        expected = compare_paired(one, other)
        holed = entry["metric"] == "dice" and "b" in (entry["first"], entry["second"])
        assert entry["n"] == expected["n"] == (11 if holed else 12)
        assert entry["mean_difference"] == expected["mean_difference"]
        assert entry["t"]["p"] == expected["t"]["p"]
        assert entry["wilcoxon"]["p"] == expected["wilcoxon"]["p"]


def test_a_family_is_one_metric_in_one_list(statistics):
    for name, metrics in (("between_runs", 3), ("against_raters", 1)):
        entries = statistics[name]
        families = {entry["metric"] for entry in entries}
        assert len(families) == metrics
        for metric in families:
            family = [entry for entry in entries if entry["metric"] == metric]
            for test in ("t", "wilcoxon"):
                expected = holm([entry[test]["p"] for entry in family])
                assert [entry[test]["p_holm"] for entry in family] == expected
    assert any("family" in sentence for sentence in statistics["methods"])


def test_each_run_is_set_against_the_dice_between_the_raters(statistics):
    keys = [(e["run"], e["modality"], e["rater"]) for e in statistics["against_raters"]]
    assert len(keys) == len(set(keys)) == 2 * (2 + 2 + 1)
    for entry in statistics["against_raters"]:
        studies = [s for s in (DEFINED if entry["run"] == "b" else STUDIES) if s != "s11"]
        own = values(entry["run"], entry["modality"], entry["rater"], "dice", studies)
        expected = compare_paired(own, reference_dice(entry["modality"], studies))
        assert entry["pair"] == ["r1", "r2"] and entry["metric"] == "dice"
        assert entry["n"] == len(studies)
        assert entry["mean_difference"] == expected["mean_difference"]
        assert entry["effect_size"] == expected["effect_size"]


def test_bland_altman_is_of_those_same_pairs(statistics):
    for entry, test in zip(statistics["bland_altman"], statistics["against_raters"], strict=True):
        assert entry["bias"] == pytest.approx(test["mean_difference"], abs=1e-12)
        assert entry["bias_ci"] == pytest.approx(test["ci"], abs=1e-12)
        studies = [point["study"] for point in entry["points"]]
        own = values(entry["run"], entry["modality"], entry["rater"], "dice", studies)
        reference = reference_dice(entry["modality"], studies)
        assert len(studies) == entry["n"] and "control" not in studies
        for point, a, b in zip(entry["points"], own, reference, strict=True):
            assert (point["mean"], point["difference"]) == pytest.approx(((a + b) / 2, a - b))
        expected = bland_altman(own, reference)
        assert {name: entry[name] for name in expected} == expected


def test_intervals_are_bootstrapped_over_what_is_defined(statistics):
    keys = {(e["run"], e["modality"], e["rater"], e["metric"]) for e in statistics["intervals"]}
    assert len(keys) == len(statistics["intervals"]) == 10 * len(INTERVAL_METRICS)
    for entry in statistics["intervals"]:
        labels = [entry[name] for name in ("run", "modality", "rater", "metric")]
        defined = [value for value in values(*labels) if np.isfinite(value)]
        assert entry["n"] == len(defined)
        assert entry["mean"] == pytest.approx(np.mean(defined))
        ends = bootstrap_intervals(np.transpose([defined]))[:, 0]
        assert [entry["lower"], entry["upper"]] == pytest.approx(list(ends), abs=1e-12)
        assert "10000 resamples" in entry["method"]


def test_lesions_are_binned_by_the_volume_that_the_rater_drew(statistics):
    own = [e for e in statistics["sizes"] if (e["run"], e["rater"]) == ("a", "r1")]
    adc = [e for e in own if e["modality"] == "adc"]
    # 0 ml is no lesion; an edge belongs to the bin above it.
    assert [e["studies"] for e in adc] == [2, 3, 3, 3]
    assert [e["bin"] for e in adc] == [name for name, _, _ in SIZE_BINS]
    assert [(e["low_ml"], e["high_ml"]) for e in adc] == [(0, 1), (1, 5), (5, 20), (20, None)]
    dice = values("a", "adc", "r1", "dice", ["s9", "s10", "s11"])
    assert adc[3]["dice"] == pytest.approx({"mean": np.mean(dice), "sd": np.std(dice, ddof=1)})
    assert SIZE_BINS[-1][2] == inf


def test_a_lesion_of_which_no_voxel_was_marked_is_missed():
    rows = score_rows(("a",), ("adc",), ("r1",))
    for row in rows:
        if row["study"] in ("s0", "s1", "s10"):
            row["sensitivity"] = 0.0
    sizes = run_statistics(rows, [])["sizes"]
    assert [entry["missed"] for entry in sizes] == [1, 0, 0, 1]


def test_a_third_rater_is_a_reference_for_those_it_is_paired_with():
    pairs = [("r1", "r2"), ("r1", "r3"), ("r2", "r3")]
    rows = score_rows(("a",), ("adc",), ("r1", "r2", "r3"))
    found = run_statistics(rows, agreement_rows(pairs, ("adc",)))["against_raters"]
    assert [(entry["rater"], tuple(entry["pair"])) for entry in found] == [
        ("r1", ("r1", "r2")), ("r1", ("r1", "r3")), ("r2", ("r1", "r2")),
        ("r2", ("r2", "r3")), ("r3", ("r1", "r3")), ("r3", ("r2", "r3")),
    ]  # fmt: skip


def test_one_run_one_rater_and_one_study():
    rows = [row for row in score_rows(("a",), ("adc",), ("r1",)) if row["study"] == "s5"]
    found = run_statistics(rows, [])
    assert found["between_runs"] == found["against_raters"] == found["bland_altman"] == []
    assert [entry["n"] for entry in found["intervals"]] == [1] * len(INTERVAL_METRICS)
    assert {entry["lower"] for entry in found["intervals"]} == {None}
    assert [entry["studies"] for entry in found["sizes"]] == [0, 1, 0, 0]
    assert found["sizes"][0]["dice"] == {"mean": None, "sd": None}
    assert found["sizes"][1]["dice"]["sd"] is None


def test_controls_alone_have_no_statistics():
    rows = [row for row in score_rows() if row["group"] == "control"]
    found = run_statistics(rows, agreement_rows())
    assert {name for name, entries in found.items() if entries} == {"methods"}


def test_a_score_that_is_never_defined_has_no_mean():
    rows = score_rows(("a",), ("adc",), ("r1",))
    for row in rows:
        row["hd95_mm"] = nan
    found = {e["metric"]: e for e in run_statistics(rows, [])["intervals"]}
    assert (found["hd95_mm"]["n"], found["hd95_mm"]["mean"]) == (0, None)
    assert found["hd95_mm"]["lower"] is found["hd95_mm"]["upper"] is None
    assert found["dice"]["n"] == 12


def test_agreement_and_statistics_need_no_tensorflow():
    program = """
import sys
for name in ("tensorflow", "keras"):
    sys.modules[name] = None
import numpy as np
from strokeseg_tf.evaluation import agreement, consensus, statistics
masks = {("r1", "adc"): np.ones((2, 2, 2))}
masks["r2", "adc"] = np.stack([np.eye(2)] * 2)
rows = agreement.study_agreement("s", "stroke", consensus.add_consensus(masks, "staple"), (1, 1, 1))
print(len(agreement.summarise_agreement(rows)), len(statistics.run_statistics([], rows)))
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.stdout == "3 6\n", result.stderr
