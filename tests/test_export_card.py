"""The model card: what the run and an evaluation of it say, and nothing of patients or machines."""

import json
import re
import shutil

import numpy as np
import pytest
from test_serving import make_run

from strokeseg_tf.cli import main
from strokeseg_tf.evaluation.case import Case
from strokeseg_tf.evaluation.evaluate import evaluate_cases
from strokeseg_tf.models.variants import build_model
from strokeseg_tf.runs import load_network
from strokeseg_tf.serving.card import model_card
from strokeseg_tf.serving.card_page import card_markdown
from tfrecord_tools.atomic import write_text
from tfrecord_tools.errors import InputError
from tfrecord_tools.shards import sha256_of

TEST_STUDIES = [f"phantom-{number:03d}" for number in (11, 12, 13, 14)]
DESCRIPTION = {
    "variant": "dual_v1",
    "modalities": ["adc", "dwi"],
    "image_size": 16,
    "precision": "float32",
    "versions": {"strokeseg-tf": "0.1.0", "tensorflow": "2.17.1", "keras": "3.15.1"},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with all that `fit` writes for people: history and environment."""
    run = make_run(tmp_path_factory.mktemp("runs") / "secret-name", filters=[2], image_size=16)
    history = (
        "epoch,loss,val_loss,val_adc_dice,val_dwi_dice,learning_rate,seconds\n"
        "1,0.5,0.5,0.10,0.20,0.001,1.0\n"
        "2,0.4,0.4,0.40,0.50,0.001,1.0\n"
        "3,0.3,0.6,0.45,0.35,0.001,1.0\n"
    )
    write_text(run.history_file, history)
    splits = {
        "train": ["phantom-001", "phantom-002"],
        "validation": ["phantom-003"],
        "test": TEST_STUDIES,
    }
    shards = {
        f"{name}-00000-of-00001.tfrecord": {"split": name, "records": 7 * len(studies)}
        for name, studies in splits.items()
    }
    environment = {
        "versions": {"python": "3.11.7", "tensorflow": "2.17.1"},
        "machine": {"system": "Linux", "cores": 2},
        "data": {"splits": splits, "seed": 0, "shards": shards},
    }
    write_text(run.environment_file, json.dumps(environment))
    return run


@pytest.fixture(scope="module")
def network(run):
    return load_network(run.model_file)


def description_of(run):
    """What the export of a run says of itself."""
    return DESCRIPTION | {
        "threshold": run.read_threshold(),
        "weights_sha256": sha256_of(run.model_file),
    }


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory, run):
    """A real evaluation: squares of which a part is found, and one control."""
    cases = []
    for number, study in enumerate(TEST_STUDIES):
        reference = np.zeros((8, 24, 24), bool)
        predicted = np.zeros_like(reference)
        if number:
            reference[2:5, 4:20, 4 : 8 * number] = True
            predicted[2:5, 4:20, 4 : 5 * number] = True
        cases.append(
            Case(
                study=study,
                group="stroke" if number else "control",
                spacing_mm=(5.0, 2.0, 2.0),
                affine=np.eye(4),
                images={},
                references={("r1", m): reference for m in ("adc", "dwi")},
                predictions={"secret-name": dict.fromkeys(("adc", "dwi"), predicted)},
            )
        )
    out = tmp_path_factory.mktemp("evaluations") / "evaluation"
    evaluate_cases(
        cases,
        {"secret-name": "dual_v1"},
        out,
        thresholds={"secret-name": 0.5},
        weights={"secret-name": sha256_of(run.model_file)},
        settings={"phantom": True},
    )
    return out


def summary_of(folder):
    return json.loads((folder / "summary.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def card(run, network, evaluation):
    return model_card(run, network, description_of(run), evaluation)


@pytest.fixture(scope="module")
def page(card):
    return card_markdown(card)


def test_the_sections_are_those_of_model_cards_for_model_reporting(page):
    assert re.findall(r"^## (.*)$", page, re.MULTILINE)[:9] == [
        "Model details", "Intended use", "Factors", "Metrics", "Evaluation data", "Training data",
        "Quantitative analyses", "Ethical considerations", "Caveats and recommendations",
    ]  # fmt: skip
    assert "Not a medical device" in page.splitlines()[2]


def test_no_study_no_path_and_no_machine_is_in_it(card, page, run, evaluation):
    for text in (page, json.dumps(card)):
        assert "phantom-" not in text and "secret-name" not in text
        assert str(run.folder.parent) not in text and str(evaluation.parent) not in text
        assert "Linux" not in text and "/tmp" not in text


def test_it_is_ready_for_json_without_numbers_that_are_none(card):
    assert json.loads(json.dumps(card, allow_nan=False))["evaluation"] == card["evaluation"]


def test_metrics_and_intervals_are_those_of_the_evaluation(card, page, evaluation):
    intervals = summary_of(evaluation)["statistics"]["intervals"]
    for result in card["evaluation"]["results"]:
        for metric, shown in result["metrics"].items():
            (entry,) = (
                e
                for e in intervals
                if (e["modality"], e["rater"], e["metric"])
                == (result["modality"], result["rater"], metric)
            )
            assert shown == {key: entry[key] for key in ("n", "mean", "lower", "upper")}
        dice = result["metrics"]["dice"]
        shown = f"{dice['mean']:.2f} ({dice['lower']:.2f} to {dice['upper']:.2f})"
        assert dice["lower"] < dice["mean"] < dice["upper"]
        assert re.search(
            rf"^\| {result['modality'].upper()} \| R1 \| 3 \| {re.escape(shown)}",
            page,
            re.MULTILINE,
        )


def test_sizes_and_failures_are_counted(card, evaluation):
    sizes = summary_of(evaluation)["statistics"]["sizes"]
    for result in card["evaluation"]["results"]:
        assert [s["bin"] for s in result["sizes"]] == [
            s["bin"] for s in sizes if s["modality"] == result["modality"]
        ]
        assert sum(s["studies"] for s in result["sizes"]) == 3
        failures = result["failures"]
        assert failures["controls"] == 1 and failures["controls_marked"] == 0
        assert failures["studies_below"] == 0 < failures["lowest_dice"] < 1


def test_phantom_data_are_called_phantom_data(page, run, network):
    assert "Learnt from phantom data alone" in page
    assert page.index("**Phantom data.**") > page.index("## Quantitative analyses")


def test_training_is_told_as_the_run_recorded_it(card, page, run):
    training = card["training"]
    assert training["splits"]["train"] == {"studies": 2, "slices": 14, "role": "learnt"}
    assert training["splits"]["validation"]["role"] == "weights chosen on"
    assert training["splits"]["test"]["role"] == "not learnt"
    assert (training["epochs"], training["best_epoch"]) == (3, 2)
    assert training["validation_dice"] == {"adc": 0.4, "dwi": 0.5}
    assert training["settings"] == run.read_config().to_dict()
    assert "| train | 2 | 14 | learnt |" in page and "rater R1" in page


def test_the_model_is_the_one_that_is_exported(card, run, network):
    model = card["model"]
    assert model["weights_sha256"] == sha256_of(run.model_file)
    trainable = sum(np.prod(w.shape) for w in network.trainable_weights)
    assert model["parameters"] == network.count_params() > model["trainable_parameters"]
    assert model["trainable_parameters"] == trainable


def test_without_an_evaluation_it_says_so_and_gives_the_validation_dice(run, network):
    page = card_markdown(model_card(run, network, description_of(run)))
    assert "No evaluation on test studies was given" in page
    assert "ADC 0.400, DWI 0.500" in page and "it flatters" in page


def test_a_threshold_chosen_by_validation_is_told(run, network, tmp_path):
    copy = type(run)(shutil.copytree(run.folder, tmp_path / "run"))
    copy.write_threshold({"threshold": 0.35, "split": "validation", "rater": "r1", "dice": {}})
    card = model_card(copy, network, description_of(copy))
    assert "0.35, chosen after training: best Dice on the split validation" in card_markdown(card)


def test_an_evaluation_on_what_was_learnt_is_called_no_test(run, network, evaluation, tmp_path):
    copy = type(run)(shutil.copytree(run.folder, tmp_path / "secret-name"))
    environment = json.loads(copy.environment_file.read_text(encoding="utf-8"))
    environment["data"]["splits"] |= {"train": TEST_STUDIES[:2], "validation": TEST_STUDIES[3:]}
    write_text(copy.environment_file, json.dumps(environment))
    page = card_markdown(model_card(copy, network, description_of(copy), evaluation))
    assert "**This is no test: the network was trained on 2 of these studies.**" in page
    assert "**This is no test: the weights were chosen on 1 of these studies.**" in page


def test_another_arithmetic_than_was_evaluated_is_a_caveat(run, network, evaluation):
    card = model_card(run, network, description_of(run) | {"precision": "int8"}, evaluation)
    page = card_markdown(card)
    changed = page.index("before its arithmetic was changed to int8")
    assert page.index("## Quantitative analyses") < changed < page.index("| ADC | R1 |")


def refusal(run, network, evaluation):
    with pytest.raises(InputError) as caught:
        model_card(run, network, description_of(run), evaluation)
    return str(caught.value)


def test_an_evaluation_of_another_run_is_refused(run, network, evaluation, tmp_path):
    changed = shutil.copytree(evaluation, tmp_path / "e")
    summary = (changed / "summary.json").read_text(encoding="utf-8")
    write_text(changed / "summary.json", summary.replace('"secret-name"', '"other"'))
    assert "does not evaluate the run secret-name, but other" in refusal(run, network, changed)
    write_text(changed / "summary.json", summary.replace('"dual_v1"', '"dual_v2"'))
    assert "of the variant dual_v2" in refusal(run, network, changed)


def test_an_evaluation_of_other_weights_or_another_threshold_is_refused(
    run, network, evaluation, tmp_path
):
    copy = type(run)(shutil.copytree(run.folder, tmp_path / "secret-name"))
    copy.write_threshold({"threshold": 0.35, "split": "validation", "rater": "r1", "dice": {}})
    said = refusal(copy, network, evaluation)
    assert "at the threshold 0.5, but 0.35 would be exported; evaluate the run anew" in said
    copy.model_file.write_bytes(copy.model_file.read_bytes() + b"trained on")
    said = refusal(copy, network, evaluation)
    assert "other weights of secret-name" in said and "evaluate the run anew" in said


def test_an_evaluation_that_does_not_tell_its_weights_is_remarked(
    run, network, evaluation, tmp_path, page
):
    older = shutil.copytree(evaluation, tmp_path / "e")
    summary = summary_of(older)
    del summary["runs"]
    write_text(older / "summary.json", json.dumps(summary))
    remark = "known by the run's name alone"
    assert remark not in page
    assert remark in card_markdown(model_card(run, network, description_of(run), older))


def test_evaluate_tells_what_export_compares(shards, tmp_path, capsys):
    run = make_run(tmp_path / "trained", variant="unimodal", filters=[2], image_size=16)
    out = tmp_path / "evaluation"
    assert main(["evaluate", str(run.folder), "--data", str(shards), "-o", str(out)]) == 0
    assert summary_of(out)["runs"]["trained"] == {
        "variant": "unimodal",
        "threshold": run.read_threshold(),
        "weights_sha256": sha256_of(run.model_file),
    }
    network = load_network(run.model_file)
    assert model_card(run, network, description_of(run), out)["evaluation"]["weights_known"]
    build_model(run.read_config().model).save(run.model_file)
    capsys.readouterr()
    line = ["export", str(run.folder), str(tmp_path / "m"), "--evaluation", str(out)]
    assert main(line) == 2
    assert "scored other weights of trained" in capsys.readouterr().err
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("summary.json", None, "summary.json"),
        ("scores.csv", None, "scores.csv"),
        ("summary.json", "{", "damaged"),
        ("summary.json", "[]", "no evaluation that can be read"),
        ("summary.json", "{}", "no evaluation that can be read"),
        ("scores.csv", "a,b\n1,2\n", "no evaluation that can be read"),
    ],
)
def test_a_damaged_evaluation_is_one_sentence(
    run, network, evaluation, tmp_path, name, content, says
):
    damaged = shutil.copytree(evaluation, tmp_path / "e")
    if content is None:
        (damaged / name).unlink()
    else:
        write_text(damaged / name, content)
    assert says in refusal(run, network, damaged)


@pytest.mark.parametrize("name", ["history.csv", "environment.json"])
def test_damaged_files_of_the_run_are_named_and_missing_ones_are_not_recorded(
    run, network, tmp_path, name
):
    copy = type(run)(shutil.copytree(run.folder, tmp_path / "run"))
    write_text(copy.folder / name, "{")
    assert name in refusal(copy, network, None)
    (copy.folder / name).unlink()
    assert re.search("not record", card_markdown(model_card(copy, network, description_of(copy))))
