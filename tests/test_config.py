"""The configuration: round trips, presets, and what is refused."""

import argparse
import dataclasses
import json

import pytest

from strokeseg_tf.commands.settings import add_config_arguments, resolve_config
from strokeseg_tf.config import PAPER, PAPER_CODE, PRESETS, SMALL, Config, read_config
from tfrecord_tools.errors import InputError


def differences(config, base):
    """{(section, field): value} where `config` is not like `base`."""
    return {
        (section, field): value
        for section, fields in config.to_dict().items()
        for field, value in fields.items()
        if value != base.to_dict()[section][field]
    }


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_survives_the_way_through_json(preset, tmp_path):
    config = PRESETS[preset]
    content = json.loads(json.dumps(config.to_dict()))
    assert Config().replace(**content) == config
    file = tmp_path / "config.json"
    file.write_text(json.dumps(content))
    assert read_config(file, base=Config()) == config


def test_a_file_replaces_only_what_it_names(tmp_path):
    file = tmp_path / "config.json"
    file.write_text('{"training": {"epochs": 3}}')
    assert differences(read_config(file, base=SMALL), SMALL) == {("training", "epochs"): 3}


def test_toml_says_what_json_says(tmp_path):
    (tmp_path / "a.json").write_text(
        '{"model": {"filters": [4, 8]}, "optimiser": {"clipnorm": null}}'
    )
    (tmp_path / "a.toml").write_text('model.filters = [4, 8]\n[optimiser]\nclipnorm = "none"\n')
    assert read_config(tmp_path / "a.toml", base=PAPER_CODE) == read_config(
        tmp_path / "a.json", base=PAPER_CODE
    )


def parse_flags(*flags):
    parser = argparse.ArgumentParser()
    add_config_arguments(parser, describe=True)
    return resolve_config(parser.parse_args(flags))


def test_every_setting_has_a_flag_that_reads_what_the_setting_prints():
    """All settings of one preset, as flags upon another, give the first."""
    flags = []
    for section, fields in PAPER_CODE.to_dict().items():
        for field, value in fields.items():
            text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
            flags += [f"--{section}.{field}", text.lower() if isinstance(value, bool) else text]
    assert parse_flags("--preset", "small", *flags) == PAPER_CODE


def test_flags_come_after_the_file_and_the_file_after_the_preset(tmp_path):
    file = tmp_path / "config.json"
    file.write_text('{"training": {"epochs": 3, "batch_size": 5}}')
    config = parse_flags("--preset", "small", "--config", str(file), "--epochs", "7")
    assert (config.training.epochs, config.training.batch_size) == (7, 5)
    assert config.model == SMALL.model


@pytest.mark.parametrize(
    "flags",
    [
        ("--epochs", "many"),
        ("--loss.gamma", "true"),
        ("--model.filters", "8,x"),
        ("--model.filters", "8"),
        ("--optimiser.clipnorm", "{}"),
    ],
)
def test_a_flag_that_makes_no_sense_is_named(flags):
    with pytest.raises(InputError, match=rf"{flags[0].lstrip('-').split('.')[-1]} must be"):
        parse_flags(*flags)


def test_the_help_describes_every_setting():
    parser = argparse.ArgumentParser()
    add_config_arguments(parser, describe=True)
    described = {a.dest for a in parser._actions if a.help and a.help != argparse.SUPPRESS}
    assert described >= {
        f"{section.name}.{field.name}"
        for section in dataclasses.fields(Config)
        for field in dataclasses.fields(section.type)
    }


def test_replace_leaves_the_original_alone():
    assert PAPER.replace(loss={"gamma": 1}).loss.gamma == 1.0
    assert Config() == PAPER


def test_the_paper_preset_is_the_text_of_the_paper():
    assert PAPER.model.filters == (32, 64, 128, 256, 512)
    assert (PAPER.model.bottleneck, PAPER.model.image_size) == (1024, 224)
    assert PAPER.model.joint_embedding and PAPER.model.dropout == 0
    assert (PAPER.loss.alpha, PAPER.loss.gamma) == (0.25, 2)
    assert (PAPER.loss.lesion_weight, PAPER.loss.background_weight) == (3, 1)
    assert PAPER.loss.alpha_reading == "uniform"
    assert (PAPER.optimiser.learning_rate, PAPER.optimiser.weight_decay) == (5e-3, 1e-5)
    assert PAPER.optimiser.warmup_share * PAPER.training.epochs == pytest.approx(90)
    assert (PAPER.training.epochs, PAPER.training.batch_size) == (300, 16)


def test_paper_code_differs_from_the_paper_where_the_authors_code_does():
    assert differences(PAPER_CODE, PAPER) == {
        ("model", "dropout"): 0.3,
        ("model", "joint_embedding"): False,
        ("optimiser", "warmup_share"): 0.4,
        ("optimiser", "decay_scaled_by_lr"): False,
        ("optimiser", "clipnorm"): 1.0,
        ("optimiser", "ema_momentum"): 0.999,
    }


def test_small_keeps_the_topology_and_is_narrower():
    assert len(SMALL.model.filters) == len(PAPER.model.filters)
    assert all(
        few < many for few, many in zip(SMALL.model.filters, PAPER.model.filters, strict=True)
    )
    for field in ("variant", "pooling", "joint_embedding", "dropout"):
        assert getattr(SMALL.model, field) == getattr(PAPER.model, field)
    assert SMALL.loss.alpha_reading == PAPER.loss.alpha_reading


@pytest.mark.parametrize(
    "changes, known",
    [
        ({"modle": {}}, ["modle", "model", "loss", "optimiser", "augmentation", "training"]),
        ({"self": {}}, ["self", "model", "loss"]),
        ({"loss": {"gama": 1.0}}, ["gama", "alpha", "gamma", "lesion_weight"]),
        ({"model": {"variant": "v4"}}, ["v4", "unimodal", "dual_v1", "dual_v2", "dual_v3"]),
        ({"model": {"modality": "flair"}}, ["flair", "adc", "dwi"]),
        ({"model": {"pooling": "median"}}, ["median", "average", "max"]),
        ({"loss": {"alpha_reading": "both"}}, ["both", "uniform", "balanced"]),
        ({"training": {"precision": "int8"}}, ["int8", "float32", "bfloat16", "float16"]),
    ],
)
def test_an_unknown_name_is_answered_with_the_known_ones(changes, known):
    with pytest.raises(ValueError) as error:
        PAPER.replace(**changes)
    assert all(name in str(error.value) for name in known)


@pytest.mark.parametrize(
    "section, field, value",
    [
        ("training", "epochs", True),
        ("training", "epochs", 3.0),
        ("training", "epochs", "3"),
        ("training", "rater", 1),
        ("loss", "gamma", "2"),
        ("loss", "gamma", True),
        ("loss", "gamma", None),
        ("model", "joint_embedding", 1),
        ("model", "filters", "32"),
        ("model", "filters", [32, 64.0]),
        ("model", "filters", [32, True]),
        ("optimiser", "clipnorm", "1"),
        ("augmentation", "elastic", 5.0),
    ],
)
def test_a_value_of_the_wrong_type_is_refused_by_name(section, field, value):
    with pytest.raises(ValueError, match=f"{section}.{field} must be"):
        PAPER.replace(**{section: {field: value}})


@pytest.mark.parametrize(
    "section, field, value",
    [
        ("model", "dropout", 1.0),
        ("model", "bottleneck", 0),
        ("model", "prior", 0.0),
        ("model", "filters", []),
        ("model", "filters", [32, 0]),
        ("loss", "alpha", 1.5),
        ("loss", "gamma", -1.0),
        ("loss", "lesion_weight", float("inf")),
        ("optimiser", "learning_rate", 0.0),
        ("optimiser", "learning_rate", float("nan")),
        ("optimiser", "learning_rate", float("inf")),
        ("optimiser", "clipnorm", 0.0),
        ("optimiser", "clipnorm", float("nan")),
        ("optimiser", "warmup_share", 1.0),
        ("optimiser", "ema_momentum", 1.0),
        ("augmentation", "probability", 1.1),
        ("augmentation", "brightness", 1.1),
        ("augmentation", "elastic", [5.0]),
        ("augmentation", "elastic", [5.0, 0.0]),
        ("training", "epochs", 0),
        ("training", "batch_size", 0),
        ("training", "seed", -1),
        ("training", "threshold", 0.0),
        ("training", "threshold", 1.0),
    ],
)
def test_an_impossible_value_is_refused_by_name(section, field, value):
    with pytest.raises(ValueError, match=field):
        PAPER.replace(**{section: {field: value}})


@pytest.mark.parametrize("size", [0, 8, 100, 225])
def test_an_image_size_that_does_not_halve_down_to_the_last_level_is_refused(size):
    with pytest.raises(ValueError, match="image_size must be a multiple of 16 for 5 levels"):
        PAPER.replace(model={"image_size": size})


def test_fewer_levels_allow_more_image_sizes():
    assert PAPER.replace(model={"image_size": 100, "filters": [8, 16, 32]}).model.image_size == 100


def test_a_whole_number_may_stand_for_a_float_and_null_for_no_limit():
    optimiser = PAPER_CODE.replace(optimiser={"learning_rate": 1, "clipnorm": None}).optimiser
    assert type(optimiser.learning_rate) is float and optimiser.clipnorm is None


@pytest.mark.parametrize("text", ["[]", "{", '{"loss": 3}', '{"loss": {"gamma": NaN}}'])
def test_a_damaged_file_is_named(text, tmp_path):
    file = tmp_path / "mine.json"
    file.write_text(text)
    with pytest.raises(ValueError, match="mine.json"):
        read_config(file, base=PAPER)


@pytest.mark.parametrize("variant", ["unimodal", "dual_v1"])
def test_modalities_are_those_of_the_variant(variant):
    config = PAPER.replace(model={"variant": variant, "modality": "dwi"})
    assert config.model.modalities == (("dwi",) if variant == "unimodal" else ("adc", "dwi"))
