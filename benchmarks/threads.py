"""Claim: half of the cores for an operation, two operations at once, make training steps faster.

Times training steps and inference of a network with all cores for an operation (TensorFlow's
default) and with half of them, each in a fresh process, alternating; prints medians and ratios.
Data is constant and in memory: nothing but the network is timed.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

# First: it says how TensorFlow, which Keras loads, is to compute.
from strokeseg_tf.config import PRESETS
from strokeseg_tf.engine.recipe import compile_trainer
from strokeseg_tf.engine.training_twin import build_twin
from strokeseg_tf.models.variants import build_model


def measure(preset, variant, batch, steps):
    """Median seconds of a training step and of inference on as many slice pairs."""
    import tensorflow as tf

    config = PRESETS[preset].replace(model={"variant": variant})
    network = build_model(config.model)
    trainer = build_twin(network)
    compile_trainer(trainer, config, total_steps=100)
    shape = (batch, config.model.image_size, config.model.image_size, 1)
    images = {m: tf.random.stateless_uniform(shape, (0, 1)) for m in network.input}
    masks = {m: tf.cast(image > 0.99, tf.float32) for m, image in images.items()}
    batches = iter(tf.data.Dataset.from_tensors((images, masks)).repeat())
    trainer.make_train_function()
    infer = tf.function(lambda x: network(x, training=False))
    work = [lambda: trainer.train_function(batches), lambda: infer(images)]
    print(json.dumps([median_seconds(function, steps) for function in work]))


def median_seconds(function, steps):
    """Of a call, after one that traces it."""
    function()
    seconds = []
    for _ in range(steps):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def main():
    """Alternate the two in fresh processes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="small")
    parser.add_argument("--variant", default="dual_v1")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--measure", action="store_true", help="in this process only")
    options = parser.parse_args()
    if options.measure:
        measure(options.preset, options.variant, options.batch, options.steps)
        return
    cores = len(os.sched_getaffinity(0))
    results = {cores: [], max(1, cores // 2): []}
    command = [sys.executable, *sys.argv, "--measure"]
    for _ in range(options.repeats):
        for threads, rows in results.items():
            environment = os.environ | {"TF_NUM_INTRAOP_THREADS": str(threads)}
            output = subprocess.check_output(command, env=environment)
            rows.append(json.loads(output.splitlines()[-1]))
    for index, title in enumerate(("training step", "inference")):
        medians = [statistics.median(row[index] for row in rows) for rows in results.values()]
        print(f"{title}: all cores {medians[0]:.3f} s, half {medians[1]:.3f} s", end="")
        print(f", ratio {medians[1] / medians[0]:.2f}")


if __name__ == "__main__":
    main()
