"""Options that decide a run's configuration: a preset, a file, and a flag for every field.

Flags, their types and their help come from the dataclasses of `strokeseg_tf.config`.
"""

import argparse
import dataclasses
import inspect
import json
import re

from strokeseg_tf.config import PRESETS, Config, read_config
from tfrecord_tools.errors import InputError

#: Short names of the settings that are changed most; every setting has `--section.field`.
SHORT = {
    "model.variant": "--variant",
    "model.modality": "--modality",
    "training.epochs": "--epochs",
    "training.batch_size": "--batch-size",
    "optimiser.learning_rate": "--learning-rate",
    "training.precision": "--precision",
    "training.rater": "--rater",
    "training.seed": "--seed",
    "training.fold": "--fold",
}


def add_config_arguments(parser, preset="paper", without=(), describe=False):
    """Declare what decides the configuration.

    Args:
        parser: The command's.
        preset: The default.
        without: Settings, as `section.field`, that the command decides itself.
        describe: Show the settings without a short name in the command's help too.
    """
    parser.add_argument(
        "--preset",
        default=preset,
        help=f"settings to start from: {', '.join(PRESETS)} (default: {preset})",
    )
    parser.add_argument(
        "--config", metavar="F", help="JSON or TOML file whose settings replace the preset's"
    )
    short = parser.add_argument_group("settings, in place of the preset's or the file's")
    for section in dataclasses.fields(Config):
        title = f"{section.name}: {inspect.getdoc(section.type).splitlines()[0].rstrip('.')}"
        group = parser.add_argument_group(title) if describe else short
        for field, text in _fields(section.type).items():
            setting = f"{section.name}.{field.name}"
            if setting in without:
                continue
            named = [SHORT[setting]] if setting in SHORT else []
            (short if named else group).add_argument(
                *named,
                f"--{setting}",
                dest=setting,
                default=argparse.SUPPRESS,
                metavar="V",
                help=text if named or describe else argparse.SUPPRESS,
            )
    if not describe:
        short.description = "Every other setting has a flag too: see strokeseg-tf fit --help."


def _fields(section) -> dict:
    """The fields of a dataclass with what its docstring says of them."""
    text = inspect.getdoc(section)
    said = dict(re.findall(r"^    (\w+): (.+(?:\n        .+)*)", text, re.MULTILINE))
    # argparse formats help with %.
    return {
        field: re.sub(r"\s+", " ", said[field.name]).replace("`", "").replace("%", "%%")
        for field in dataclasses.fields(section)
    }


def resolve_config(arguments) -> Config:
    """Preset, then the file, then the flags.

    Raises:
        InputError: An unknown preset or setting, or an impossible value.
    """
    if arguments.preset not in PRESETS:
        raise InputError(
            f"unknown preset {arguments.preset!r} for --preset; known: {', '.join(PRESETS)}"
        )
    try:
        config = PRESETS[arguments.preset]
        if arguments.config:
            config = read_config(arguments.config, config)
        changes = {}
        for setting, text in vars(arguments).items():
            if "." in setting:
                section, field = setting.split(".")
                expected = type(getattr(getattr(config, section), field))
                changes.setdefault(section, {})[field] = _value(text, expected)
        return config.replace(**changes)
    except ValueError as error:
        raise InputError(f"{error}; see strokeseg-tf fit --help") from error


def _value(text: str, expected: type):
    """What a flag's text means: JSON, but for texts, lists as `8,16,32`, and `none`."""
    if expected is str:
        return text
    if text.lower() == "none":
        return None
    try:
        return json.loads(f"[{text}]" if "," in text and not text.startswith("[") else text)
    except ValueError:
        return text  # The configuration says what it wants instead.
