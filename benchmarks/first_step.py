"""Claim: with one flat weight vector, training starts sooner and steps no slower than with Keras.

Trains the `small` Dual V1 for a few steps with `keras.optimizers.AdamW` and with `FlatAdamW`, each
in a fresh process, alternating, and prints the medians and their ratio.
"""

import json
import statistics
import subprocess
import sys
import time

REPEATS, STEPS = 3, 12


def measure(name):
    """Seconds from `fit` to the end of the first step, and of a later step."""
    import keras
    import numpy as np

    from strokeseg_tf.config import SMALL
    from strokeseg_tf.engine.optimiser import FlatAdamW
    from strokeseg_tf.losses import build_loss
    from strokeseg_tf.models.variants import build_model

    optimiser = {"keras": keras.optimizers.AdamW, "flat": FlatAdamW}[name]
    model = build_model(SMALL.model)
    loss = {m: build_loss(SMALL.loss) for m in model.output}
    model.compile(optimiser(1e-3, clipnorm=1.0), loss=loss, jit_compile=False)
    shape = (SMALL.training.batch_size * STEPS, *next(iter(model.input.values())).shape[1:])
    rng = np.random.default_rng(0)
    images = {m: rng.random(shape, np.float32) for m in model.input}
    masks = {m: (images[m] > 0.99).astype(np.float32) for m in model.input}

    ends = []

    class Clock(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            ends.append(time.perf_counter())

    start = time.perf_counter()
    size = SMALL.training.batch_size
    model.fit(images, masks, batch_size=size, verbose=0, callbacks=[Clock()])
    steps = [later - earlier for earlier, later in zip(ends[1:], ends[2:], strict=False)]
    print(json.dumps([ends[0] - start, statistics.median(steps)]))


def main():
    """Alternate the two in fresh processes."""
    results = {"keras": [], "flat": []}
    for _ in range(REPEATS):
        for name, rows in results.items():
            output = subprocess.run(
                [sys.executable, __file__, name], capture_output=True, text=True, check=True
            )
            rows.append(json.loads(output.stdout.splitlines()[-1]))
    for index, title in enumerate(("first step", "later step")):
        keras_s, flat_s = (statistics.median(row[index] for row in results[n]) for n in results)
        print(f"{title}: Keras AdamW {keras_s:.2f} s, FlatAdamW {flat_s:.2f} s", end="")
        print(f", ratio {flat_s / keras_s:.2f}")


if __name__ == "__main__":
    measure(sys.argv[1]) if len(sys.argv) > 1 else main()
