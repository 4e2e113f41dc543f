"""`strokeseg-tf fit`: train one variant."""

import dataclasses

from strokeseg_tf.commands.settings import add_config_arguments, resolve_config
from strokeseg_tf.console import keras_progress, print_table, remark

HELP = "train one variant on a shards folder"
EXAMPLES = """\
  strokeseg-tf fit shards/ --run runs/dual_v1 --preset small
  strokeseg-tf fit shards/ --run runs/adc --variant unimodal --modality adc
  strokeseg-tf fit shards/ --run runs/mine --config best_config.json --epochs 100
  strokeseg-tf fit shards/ --run runs/mine --loss.gamma 1.5 --model.filters 16,32,64,128
  strokeseg-tf fit shards/ --run runs/fold0 --preset small --fold 0
  strokeseg-tf fit shards/ --run runs/dual_v1 --preset small --resume
  strokeseg-tf fit shards/ --run runs/dual_v1 --dry-run
"""


def add_arguments(parser):
    """Declare the arguments."""
    parser.add_argument("shards", metavar="SHARDS", help="shards folder")
    parser.add_argument("--run", metavar="RUN", required=True, dest="folder", help="run folder")
    # The flags of all settings would fill a page.
    parser.usage = "%(prog)s SHARDS --run RUN [options]"
    add_config_arguments(parser, describe=True)
    parser.add_argument("--resume", action="store_true", help="go on with an interrupted run")
    parser.add_argument("--overwrite", action="store_true", help="replace a run that is there")
    parser.add_argument(
        "--dry-run", action="store_true", help="print settings, size and steps; train nothing"
    )


def run(arguments):
    """Train, and print where the best epoch stands."""
    config = resolve_config(arguments)
    if arguments.dry_run:
        print_plan(arguments.shards, config)
        return
    from strokeseg_tf.engine.history import mean_dice
    from strokeseg_tf.training import fit

    with keras_progress() as verbose:
        history = fit(
            arguments.shards,
            arguments.folder,
            config,
            resume=arguments.resume,
            overwrite=arguments.overwrite,
            verbose=verbose,
        )
    if not history:
        remark(f"this worker is done; the first one writes {arguments.folder}")
        return
    best = max(history, key=mean_dice)
    columns = [c for c in best if c == "epoch" or c.startswith("val_")]
    remark(f"best of {len(history)} epochs by mean validation Dice:")
    print_table(columns, [[best[c] for c in columns]])
    print(arguments.folder)


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
