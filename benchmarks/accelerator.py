"""Claim: full-size training in bfloat16 reaches 40 % of a GPU's matrix rate.

KERAS_BACKEND=jax python benchmarks/accelerator.py      # or torch: needs no TensorFlow

Trains the full-size Dual V1 on constant data as Keras does on the backend, and prints: the device,
the rate of large matrix products on it in the same precision, the time of a step, what share of
that rate the step's convolutions reach (backward counted as twice forward), and what the paper's
300 epochs over 40 studies would take. On a CPU it only tries itself out, with `small`.
"""

import argparse
import time

import keras
import numpy as np

from strokeseg_tf.config import PRESETS
from strokeseg_tf.engine.estimate import forward_flop
from strokeseg_tf.engine.precision import precision
from strokeseg_tf.engine.recipe import compile_trainer
from strokeseg_tf.engine.training_twin import build_twin
from strokeseg_tf.models.variants import build_model

#: The paper's training set: 40 studies of 20 to 26 slices.
EPOCHS, SLICES = 300, 40 * 23
#: Steps that are not timed: the first one compiles.
WARM_UP = 5


def main():
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", choices=PRESETS, help="default: paper, on a CPU small")
    parser.add_argument("--precision", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--batches", type=int, nargs="+", default=[16])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--matrix", type=int, help="size of the matrix products")
    parser.add_argument("--xla", action="store_true", help="compile on TensorFlow and PyTorch too")
    options = parser.parse_args()
    device = device_name()
    on_cpu = device == "cpu"
    preset, size = options.preset or ("small" if on_cpu else "paper"), options.matrix
    size = size or (1024 if on_cpu else 8192)
    print(f"{keras.backend.backend()}, {device}, {options.precision}, {preset}")
    rate = matrix_rate(size, options.precision)
    print(f"matrix products of {size}: {rate / 1e12:.3g} TFLOP/s")
    for batch in options.batches:
        seconds, flop = time_step(PRESETS[preset], batch, options)
        print(
            f"batches of {batch}: {seconds:.4g} s a step, {batch / seconds:.4g} slice pairs/s, "
            f"{flop / seconds / 1e12:.3g} TFLOP/s, {flop / seconds / rate:.0%} of the matrix rate; "
            f"{EPOCHS} epochs of {SLICES} slice pairs: "
            f"{EPOCHS * (SLICES // batch) * seconds / 3600:.3g} h",
            flush=True,
        )


def device_name() -> str:
    """Of the first device."""
    if keras.backend.backend() == "torch":
        import torch

        return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    if keras.backend.backend() == "jax":
        import jax

        return jax.devices()[0].device_kind
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    return tf.config.experimental.get_device_details(gpus[0])["device_name"] if gpus else "cpu"


def matrix_rate(size, dtype, products=10, rounds=5) -> float:
    """Floating-point operations a second of a chain of matrix products: the best of some rounds."""
    matrix = keras.ops.cast(np.random.default_rng(0).random((size, size), np.float32) / size, dtype)
    times = []
    for _ in range(rounds):
        start, product = time.perf_counter(), matrix
        for _ in range(products):
            product = keras.ops.matmul(product, matrix)
        # One number comes back, and with it the end of all before it.
        keras.ops.convert_to_numpy(keras.ops.cast(product[0, 0], "float32"))
        times.append(time.perf_counter() - start)
    return products * 2 * size**3 / min(times)


def time_step(config, batch, options):
    """Seconds of a training step, by the clock, and the operations of its convolutions."""
    with precision(options.precision):
        network = build_model(config.model)
        trainer = build_twin(network)
        compile_trainer(trainer, config, total_steps=1000)
        if options.xla:
            trainer.jit_compile = True
    shape = (batch, config.model.image_size, config.model.image_size, 1)
    rng = np.random.default_rng(0)
    images = {m: rng.random(shape, np.float32) for m in config.model.modalities}
    masks = {m: (image > 0.99).astype(np.float32) for m, image in images.items()}

    steps = WARM_UP + options.steps
    clock = Clock([WARM_UP, steps])
    batches = ((images, masks) for _ in range(steps))
    trainer.fit(batches, steps_per_epoch=steps, shuffle=False, verbose=0, callbacks=[clock])
    start, end = clock.times
    return (end - start) / options.steps, 3 * forward_flop(network) * batch


class Clock(keras.callbacks.Callback):
    """The time at the end of some steps, numbered from 1.

    The loss is waited for there: else steps are only put in a queue.
    """

    def __init__(self, steps):
        super().__init__()
        self._steps, self.times = steps, []

    def on_train_batch_end(self, batch, logs=None):
        if batch + 1 in self._steps:
            float(logs["loss"])
            self.times.append(time.perf_counter())


if __name__ == "__main__":
    main()
