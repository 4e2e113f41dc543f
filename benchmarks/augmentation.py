"""Claim: augmented slices come 4 times as fast as from albumentations in `tf.numpy_function`.

Slices of phantoms, read from shards, go through the paper's full list, each transform at p = 0.5.
The pipelines take turns in one process on two cores: `training_batches` without augmentation and
with either engine, and albumentations, MONAI and batchgeneratorsv2 (where they are installed) as
their users put them into `tf.data`, a slice pair a call.
Medians are printed by the clock and by processor time, the fairer on a shared machine.

With `--step`, the claim that the model never waits: a training step of the `small` Dual V1 on the
pipeline takes at most 1.05 times that on one batch which is kept. `--picture FILE.png` draws the
same slices through both engines, under a grid.
"""

import argparse
import dataclasses
import functools
import os
import statistics
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import numpy as np
import tensorflow as tf
from augmentation_peers import installed_peers
from reading import SPLIT, write_shards

from strokeseg_tf.augmentation.engines import ENGINES, build_augmenter
from strokeseg_tf.config import PAPER, SMALL
from strokeseg_tf.pipeline import EpochOrder, load_slices, training_batches

MODALITIES = ("adc", "dwi")
BATCH = 16
PAIR_BY_PAIR = "albumentations, a pair a call"


def full_list(**changes):
    """The paper's augmentation."""
    return PAPER.replace(augmentation=changes).augmentation


def whole_pipeline(slices, epochs, settings, batch_size=BATCH):
    """Ours: a `tf.data.Dataset` of batches."""
    order = EpochOrder(slices, seed=0, batch_size=batch_size)
    return training_batches(
        slices, order, modalities=MODALITIES, augmentation=settings, epochs=range(epochs)
    )


def albumentations_augmenter():
    """The reference as its users would call it."""
    augment = build_augmenter(full_list(engine="albumentations"), seed=0)
    return lambda images, masks: augment(images, masks, 0, 0)


def pair_by_pair(slices, augment):
    """What users of `augment(images, masks)` write: a pair a `tf.numpy_function`, then batches."""

    def load(index):
        return augment(slices.images[index], slices.masks[index])

    def load_tensors(index):
        pair = tf.numpy_function(load, [index], (tf.float32, tf.bool), stateful=False)
        images, masks = (tf.ensure_shape(part, slices.images.shape[1:]) for part in pair)
        return images, tf.cast(masks, tf.float32)

    def by_modality(images, masks):
        images, masks = (tf.split(part, len(MODALITIES), -1) for part in (images, masks))
        return dict(zip(MODALITIES, images, strict=True)), dict(zip(MODALITIES, masks, strict=True))

    return (
        tf.data.Dataset.range(len(slices))
        .map(load_tensors, num_parallel_calls=tf.data.AUTOTUNE)
        .batch(BATCH, drop_remainder=True)
        .map(by_modality)
        .prefetch(2)
    )


def pairs_per_second(batches):
    """By the clock, and by the processor time of one core."""
    start, used = time.perf_counter(), time.process_time()
    count = BATCH * sum(1 for _ in batches)
    return count / (time.perf_counter() - start), count / (time.process_time() - used)


def measure_rates(slices, rounds):
    """Print a row a pipeline."""
    pipelines = {  # Passes over the slices as their speed allows.
        "no augmentation": lambda: whole_pipeline(slices, 8, full_list(probability=0.0)),
        "fast": lambda: whole_pipeline(slices, 4, full_list()),
        "albumentations": lambda: whole_pipeline(slices, 1, full_list(engine="albumentations")),
        PAIR_BY_PAIR: lambda: pair_by_pair(slices, albumentations_augmenter()),
    }
    for title, augment in installed_peers(slices.images.shape[1]).items():
        pipelines[f"{title}, a pair a call"] = functools.partial(pair_by_pair, slices, augment)
    for pipeline in pipelines.values():
        next(iter(pipeline()))
    found = [{n: pairs_per_second(make()) for n, make in pipelines.items()} for _ in range(rounds)]
    print(f"{slices.images.shape[1]:4} pixels{'':22}pairs/s  of one core  ratio  of one core")
    for name in pipelines:
        rates = [statistics.median(row[name][kind] for row in found) for kind in (0, 1)]
        ratios = [
            statistics.median(row[name][kind] / row[PAIR_BY_PAIR][kind] for row in found)
            for kind in (0, 1)
        ]
        print(f"  {name:30}{rates[0]:9.0f}{rates[1]:13.0f}{ratios[0]:7.1f}{ratios[1]:13.1f}")


def measure_step(slices, rounds, steps=6):
    """Print a training step's time on the pipeline, against one on a batch that is kept."""
    from strokeseg_tf.engine.recipe import compile_trainer
    from strokeseg_tf.engine.training_twin import build_twin
    from strokeseg_tf.models.variants import build_model

    trainer = build_twin(build_model(SMALL.model))
    compile_trainer(trainer, SMALL, total_steps=100)
    trainer.make_train_function()
    endless = whole_pipeline(slices, 10_000, full_list(), SMALL.training.batch_size)
    kept = tf.data.Dataset.from_tensors(next(iter(endless))).repeat()
    batches = {"pipeline": iter(endless), "kept": iter(kept)}

    def step_ms(name):
        # The first step uses, or refills, what was prefetched meanwhile.
        trainer.train_function(batches[name])
        start, used = time.perf_counter(), time.process_time()
        for _ in range(steps):
            trainer.train_function(batches[name])
        spent = time.perf_counter() - start, time.process_time() - used
        return [1e3 * seconds / steps for seconds in spent]

    step_ms("kept")
    found = [{name: step_ms(name) for name in batches} for _ in range(rounds)]
    for kind, title in enumerate(("by the clock", "processor time")):
        medians = {name: statistics.median(row[name][kind] for row in found) for name in batches}
        ratio = statistics.median(row["pipeline"][kind] / row["kept"][kind] for row in found)
        print(
            f"a step of the small Dual V1, {title}: {medians['pipeline']:.0f} ms on the pipeline, "
            f"{medians['kept']:.0f} ms on a kept batch, ratio {ratio:.3f}",
            flush=True,
        )


#: Columns of the picture: a transform alone and always, then all as in training.
COLUMNS = {
    "rotation": {"rotation_degrees": 7.0},
    "elastic": {"elastic": (5.0, 1.5)},
    "grid distortion": {"grid_distortion": 0.1},
    "optical distortion": {"optical_distortion": 0.5},
}


def draw_picture(slices, out):
    """The slice with the largest lesion, under a grid, through both engines."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    index = slices.masks.sum((1, 2, 3)).argmax()
    images, masks = slices.images[index].copy(), slices.masks[index]
    lines = np.arange(0, len(images), len(images) // 14)
    images[lines], images[:, lines] = 0.6, 0.6
    nothing = full_list(
        probability=1.0, flips="none", transpose=False, brightness=0.0, contrast=0.0,
        rotation_degrees=0.0, elastic=None, grid_distortion=0.0, optical_distortion=0.0,
    )  # fmt: skip
    columns = {name: dataclasses.replace(nothing, **alone) for name, alone in COLUMNS.items()}
    columns |= {f"all at p = 0.5, {draw}": full_list() for draw in ("once", "again")}
    figure, axes = plt.subplots(2, len(columns), figsize=(14, 5), layout="constrained")
    for row, engine in zip(axes, ENGINES, strict=True):
        for epoch, (axis, (name, settings)) in enumerate(zip(row, columns.items(), strict=True)):
            augment = build_augmenter(dataclasses.replace(settings, engine=engine), seed=1)
            augmented, moved = augment(images, masks, epoch, index)
            axis.imshow(augmented[..., 1], "gray", vmin=0, vmax=1)
            axis.contour(moved[..., 1], [0.5], colors="tab:red", linewidths=1)
            axis.set(xticks=[], yticks=[], title=name)
        row[0].set_ylabel(engine)
    figure.suptitle("DWI of a phantom, its mask, and a grid; the engines draw differently")
    figure.savefig(out, dpi=130)


def main():
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[PAPER.model.image_size, 112])
    parser.add_argument("--studies", type=int, default=10, help="phantoms")
    parser.add_argument("--rounds", type=int, default=5, help="how often each is timed")
    parser.add_argument("--step", action="store_true", help="time training steps instead")
    parser.add_argument("--picture", type=Path, metavar="FILE.png", help="draw instead")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        shards = write_shards(Path(folder), 256, arguments.studies)
        read = {"modalities": MODALITIES, "rater": "r1"}
        if arguments.picture:
            draw_picture(load_slices(shards, SPLIT, size=224, **read), arguments.picture)
        elif arguments.step:
            size = SMALL.model.image_size
            measure_step(load_slices(shards, SPLIT, size=size, **read), arguments.rounds)
        else:
            for size in arguments.sizes:
                measure_rates(load_slices(shards, SPLIT, size=size, **read), arguments.rounds)


if __name__ == "__main__":
    main()
