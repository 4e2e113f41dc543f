"""Claim: callbacks and logging take under 3 % of an epoch.

Trains the `small` Dual V1 as `strokeseg-tf fit` does and keeps account of where an epoch's time
goes: in the traced step, in waiting for its batch, in the network and the Dice of validation, and
in everything else, which is the engine. The first epoch, which traces, is not counted. Without
SHARDS, the demo's cohort is made first. What metrics cost inside the step is timed in turn.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import strokeseg_tf  # noqa: F401  # First: it says how TensorFlow is to compute.

# isort: split
import keras
import numpy as np
from first_step import make_shards

from strokeseg_tf import training, validation
from strokeseg_tf.config import SMALL
from strokeseg_tf.engine.recipe import compile_trainer
from strokeseg_tf.engine.training_twin import build_twin
from strokeseg_tf.models.variants import build_model


class Account(keras.callbacks.Callback):
    """Seconds by place, an entry an epoch."""

    def __init__(self):
        super().__init__()
        self.rows, self.spent = [], {}

    def timed(self, place, function):
        """The function, whose time is put down."""

        def wrapped(*arguments):
            start = time.perf_counter()
            try:
                return function(*arguments)
            finally:
                self.spent[place] = self.spent.get(place, 0) + time.perf_counter() - start

        return wrapped

    def on_epoch_begin(self, epoch, logs=None):
        self.close()
        self.start, self.spent = time.perf_counter(), {}

    def close(self):
        """End an epoch's entry, with all that has come after it."""
        if self.spent:
            self.rows.append(self.spent | {"all": time.perf_counter() - self.start})
            self.spent = {}

    def on_train_end(self, logs=None):
        self.close()


def keep_account(shards, run, epochs) -> list[dict]:
    """Train; seconds by place of each epoch."""
    account = Account()
    build_step, distribute = training.build_step, training.distribute
    validate = validation.validate_prepared

    def timed_step(*arguments):
        step = build_step(*arguments)
        # Its result is waited for, as the loop's logs do.
        return account.timed(
            "steps", lambda batch: {name: float(value) for name, value in step(batch).items()}
        )

    def timed_batches(*arguments):
        batches = distribute(*arguments)

        class Timed:
            def __iter__(self):
                iterator = iter(batches)
                fetch = account.timed("waiting for batches", lambda: next(iterator))
                while True:
                    yield fetch()

        return Timed()

    training.build_step, training.distribute = timed_step, timed_batches
    validation.validate_prepared = account.timed("validation", validate)
    try:
        config = SMALL.replace(training={"epochs": epochs, "precision": "auto"})
        training.fit(shards, run, config, callbacks=[account])
    finally:
        training.build_step, training.distribute = build_step, distribute
        validation.validate_prepared = validate
    return account.rows


def time_metrics(steps):
    """Median ratio of a step with all metrics to one with none."""
    import tensorflow as tf

    functions = []
    for with_metrics in (True, False):
        trainer = build_twin(build_model(SMALL.model))
        compile_trainer(trainer, SMALL, total_steps=1000)
        if not with_metrics:
            losses = {m: training.build_loss(SMALL.loss) for m in trainer.output}
            trainer.compile(trainer.optimizer, loss=losses, jit_compile=False)
        shape = (SMALL.training.batch_size, SMALL.model.image_size, SMALL.model.image_size, 1)
        images = {m: np.random.default_rng(0).random(shape, np.float32) for m in trainer.output}
        batch = (images, {m: (x > 0.99).astype(np.float32) for m, x in images.items()})
        step = tf.function(trainer.train_step, autograph=False)
        tensors = tf.nest.map_structure(tf.constant, batch)
        functions.append(lambda step=step, tensors=tensors: float(step(tensors)["loss"]))
    ratios = []
    for number in range(steps + 2):
        times = []
        for function in functions:
            start = time.perf_counter()
            function()
            times.append(time.perf_counter() - start)
        if number > 1:
            ratios.append(times[0] / times[1])
    return statistics.median(ratios)


def main():
    """Print both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shards", nargs="?", type=Path, help="shards folder")
    parser.add_argument("--epochs", type=int, default=11)
    parser.add_argument("--steps", type=int, default=60, help="of each kind, for the metrics")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        shards = options.shards or make_shards(scratch)
        rows = keep_account(shards, Path(scratch) / "run", options.epochs)[1:]
    for row in rows:
        engine = row["all"] - sum(seconds for place, seconds in row.items() if place != "all")
        row["engine"] = engine
        parts = ", ".join(f"{place} {seconds:.2f} s" for place, seconds in row.items())
        print(f"an epoch: {parts} ({engine / row['all']:.1%})")
    whole = sum(row["engine"] for row in rows) / sum(row["all"] for row in rows)
    print(f"the engine, of all epochs: {whole:.1%}")
    print(f"a step with metrics to one without: {time_metrics(options.steps):.3f}")


if __name__ == "__main__":
    main()
