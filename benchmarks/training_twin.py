"""Claim: the twin of the network makes a training step of the `small` Dual V1 faster on a CPU.

Two networks are compiled with the recipe of `fit`, one with its stock layers and one with the twin
of `strokeseg_tf.engine.training_twin`; their steps are timed in turn, and the medians and the
median of the ratios are printed. Data is constant and in memory: nothing but the step is timed.
"""

import argparse
import statistics
import time

# First: it says how TensorFlow, which Keras loads, is to compute.
from strokeseg_tf.config import SMALL
from strokeseg_tf.engine.recipe import compile_trainer
from strokeseg_tf.engine.training_twin import build_twin
from strokeseg_tf.models.variants import build_model


def make_step(build):
    """A function that makes one training step, already traced.

    Args:
        build: Network -> the model that is trained.
    """
    import tensorflow as tf

    network = build_model(SMALL.model)
    trainer = build(network)
    compile_trainer(trainer, SMALL, total_steps=100)
    shape = (SMALL.training.batch_size, *next(iter(network.input.values())).shape[1:])
    images = {m: tf.random.stateless_uniform(shape, (0, 1)) for m in network.input}
    masks = {m: tf.cast(image > 0.99, tf.float32) for m, image in images.items()}
    batches = iter(tf.data.Dataset.from_tensors((images, masks)).repeat())
    trainer.make_train_function()
    trainer.train_function(batches)
    return lambda: trainer.train_function(batches)


def timed(step):
    """Seconds by the clock."""
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def main():
    """Time both in turn."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=30, help="steps of each")
    count = parser.parse_args().steps

    import keras

    stock = make_step(lambda network: keras.Model(network.input, network.output))
    twin = make_step(build_twin)
    rounds = [(timed(stock), timed(twin)) for _ in range(count)]
    stock_s, twin_s = map(statistics.median, zip(*rounds, strict=True))
    ratio = statistics.median(twin_s / stock_s for stock_s, twin_s in rounds)
    print(f"stock {stock_s:.3f} s a step, twin {twin_s:.3f} s, ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
