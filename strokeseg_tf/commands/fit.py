"""`strokeseg-tf fit`: train one variant."""

import dataclasses

from strokeseg_tf.config import PRESETS, read_config
from strokeseg_tf.console import keras_progress, print_table, remark
from tfrecord_tools.errors import InputError

HELP = "train one variant on a shards folder"
EXAMPLES = """\
  strokeseg-tf fit shards/ --run runs/dual_v1 --preset small
  strokeseg-tf fit shards/ --run runs/adc --variant unimodal --modality adc
  strokeseg-tf fit shards/ --run runs/mine --config best_config.json --epochs 100
  strokeseg-tf fit shards/ --run runs/fold0 --preset small --fold 0
  strokeseg-tf fit shards/ --run runs/dual_v1 --preset small --resume
  strokeseg-tf fit shards/ --run runs/dual_v1 --dry-run
"""

#: Option -> (section, field, type, help); each overrides one field of the configuration.
FIELDS = {
    "variant": ("model", "variant", str, "unimodal, dual_v1, dual_v2 or dual_v3"),
    "modality": ("model", "modality", str, "adc or dwi, for unimodal"),
    "epochs": ("training", "epochs", int, "passes over the training slices"),
    "batch-size": ("training", "batch_size", int, "slice pairs a step"),
    "learning-rate": ("optimiser", "learning_rate", float, "peak of the schedule"),
    "precision": ("training", "precision", str, "float32, bfloat16 or float16"),
    "rater": ("training", "rater", str, "whose masks are learnt"),
    "seed": ("training", "seed", int, "of weights, order and augmentation"),
    "fold": ("training", "fold", int, "fold to validate on, from 0, of convert --folds"),
}


def add_arguments(parser):
    """Declare the arguments."""
    parser.add_argument("shards", metavar="SHARDS", help="shards folder")
    parser.add_argument("--run", metavar="RUN", required=True, dest="folder", help="run folder")
    add_config_arguments(parser)
    parser.add_argument("--resume", action="store_true", help="go on with an interrupted run")
    parser.add_argument("--overwrite", action="store_true", help="replace a run that is there")
    parser.add_argument(
        "--dry-run", action="store_true", help="print settings, size and steps; train nothing"
    )


def add_config_arguments(parser, preset="paper", without=()):
    """Declare what decides the configuration: preset, file, single settings.

    Args:
        parser: The command's.
        preset: The default.
        without: Options of `FIELDS` that the command decides itself.
    """
    parser.add_argument(
        "--preset",
        default=preset,
        help=f"settings to start from: {', '.join(PRESETS)} (default: {preset})",
    )
    parser.add_argument(
        "--config", metavar="F", help="JSON file whose settings replace the preset's"
    )
    for option, (_, _, kind, text) in FIELDS.items():
        if option in without:
            parser.set_defaults(**{option: None})
        else:
            parser.add_argument(f"--{option}", type=kind, help=text)


def run(arguments):
    """Train, and print where the best epoch stands."""
    config = resolve_config(arguments)
    if arguments.dry_run:
        print_plan(arguments.shards, config)
        return
    from strokeseg_tf.training import fit, mean_dice

    with keras_progress() as verbose:
        history = fit(
            arguments.shards,
            arguments.folder,
            config,
            resume=arguments.resume,
            overwrite=arguments.overwrite,
            verbose=verbose,
        )
    best = max(history, key=mean_dice)
    columns = [c for c in best if c == "epoch" or c.startswith("val_")]
    remark(f"best of {len(history)} epochs by mean validation Dice:")
    print_table(columns, [[best[c] for c in columns]])
    print(arguments.folder)


def resolve_config(arguments):
    """Preset, then the file, then the options.

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
        for option, (section, field, _, _) in FIELDS.items():
            value = getattr(arguments, option.replace("-", "_"))
            if value is not None:
                config = config.replace(**{section: {field: value}})
    except ValueError as error:
        raise InputError(f"{error}; see strokeseg-tf fit --help") from error
    return config


def print_plan(shards, config):
    """What `fit` would do."""
    from strokeseg_tf.models.variants import build_model
    from strokeseg_tf.pipeline import usable_studies
    from tfrecord_tools.shards import read_dataset_info

    info = read_dataset_info(shards)
    modalities, training = config.model.modalities, config.training
    studies, _ = usable_studies(shards, training.train_split, modalities, training.rater)
    pairs = sum(info.studies[study]["slices"] for study in studies)
    steps = pairs // min(training.batch_size, pairs)
    weights = build_model(config.model).count_params()
    rows = [
        [f"{section.name}.{field}", str(value)]
        for section in dataclasses.fields(config)
        for field, value in dataclasses.asdict(getattr(config, section.name)).items()
    ]
    print_table(["setting", "value"], rows)
    print(f"\n{config.model.variant}: {weights:,} weights, {weights * 4 / 1e6:.1f} MB in float32")
    print(
        f"{len(studies)} training studies, {pairs} slice pairs: {steps} steps an epoch, "
        f"{steps * training.epochs} in all"
    )
