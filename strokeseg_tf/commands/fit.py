"""`strokeseg-tf fit`: train one variant."""

import dataclasses
from pathlib import Path

from strokeseg_tf.commands.settings import add_config_arguments, resolve_config
from strokeseg_tf.config import read_object
from strokeseg_tf.console import print_table, remark
from strokeseg_tf.interruption import prompt_interruption

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
    if config.training.precision == "auto":
        from strokeseg_tf.engine.precision import choose_precision

        config = config.replace(training={"precision": choose_precision("auto")})
        remark(f"--precision auto is {config.training.precision} on this machine")
    if arguments.dry_run:
        print_plan(arguments.shards, config)
        return
    from strokeseg_tf.engine.history import mean_dice
    from strokeseg_tf.training import fit

    with prompt_interruption():
        history = fit(
            arguments.shards,
            arguments.folder,
            config,
            resume=arguments.resume,
            overwrite=arguments.overwrite,
            origin=_origin(arguments.config),
        )
    if not history:
        remark(f"this worker is done; the first one writes {arguments.folder}")
        return
    best = max(history, key=mean_dice)
    columns = [
        "epoch",
        "val_loss",
        *(c for c in best if c.startswith("val_") and c.endswith("_dice")),
    ]
    remark(f"best of {len(history)} epochs by mean validation Dice:")
    print_table(columns, [[best[c] for c in columns]])
    print(arguments.folder)


def _origin(config_file):
    """What `tune` has noted beside its `best_config.json`; None for any other file."""
    file = Path(config_file or "")
    note = file.with_name("best_trial.json") if file.name == "best_config.json" else None
    return read_object(note) if note and note.is_file() else None


def print_plan(shards, config):
    """What `fit` would do: settings, network, memory and time."""
    from strokeseg_tf.engine.estimate import least_step_seconds, training_bytes
    from strokeseg_tf.models.variants import build_model
    from strokeseg_tf.pipeline import usable_studies
    from tfrecord_tools.shards import read_dataset_info

    info = read_dataset_info(shards)
    modalities, training = config.model.modalities, config.training
    studies, _ = usable_studies(shards, training.train_split, modalities, training.rater)
    pairs = sum(info.studies[study]["slices"] for study in studies)
    batch = min(training.batch_size, pairs)
    rows = [
        [f"{section.name}.{field}", str(value)]
        for section in dataclasses.fields(config)
        for field, value in dataclasses.asdict(getattr(config, section.name)).items()
    ]
    print_table(["setting", "value"], rows)
    network = build_model(config.model)
    weights = network.count_params()
    print(f"\n{config.model.variant}: {weights:,} weights, {weights * 4 / 1e6:.1f} MB in float32")
    print_table(["block", "size", "channels"], _blocks(network, modalities[0]))
    steps = pairs // batch
    # Which slices have a lesion is told by their masks, which are not read here.
    most = "" if training.lesion_free_share == 1 else "at most "
    print(
        f"\n{len(studies)} training studies, {pairs} slice pairs: {most}{steps} steps an epoch, "
        f"{steps * training.epochs} in all"
    )
    memory = training_bytes(network, batch, 4 if training.precision == "float32" else 2)
    seconds = least_step_seconds(network, batch)
    print(f"about {memory / 2**30:.1f} GiB of memory for steps of {batch} slice pairs")
    hours = seconds * steps * training.epochs / 3600
    print(
        f"{seconds:.2g} s a step and {hours:.3g} h in all, were it all float32 matrix products "
        "at this machine's present rate; expect 1.5 to 3 times that"
    )


def _blocks(network, modality):
    """Size and channels of each block of one modality's encoder and decoder."""
    end = "_unit2_add"
    return [
        [layer.name.removesuffix(end), "{} x {}".format(*layer.output.shape[1:3])]
        + [layer.output.shape[3]]
        for layer in network.layers
        if layer.name.startswith(f"{modality}_") and layer.name.endswith(end)
    ]
