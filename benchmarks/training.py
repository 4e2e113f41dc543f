"""Claim: a training step on a CPU is no slower than the same network's in PyTorch.

Our step (Keras with the fused twin and the flat AdamW, two operations at a time) and PyTorch's
(channels-last, `torch.optim.AdamW`, the same focal loss) take turns in one process on constant
data. PyTorch is no dependency: without it, ours is timed alone. Medians a slice pair and the
median of the ratios are printed, by the clock; the losses of the first step must agree.
"""

import argparse
import os
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from torch_twin import torch_twin

# First: it says how TensorFlow, which Keras loads, is to compute.
from strokeseg_tf.config import PRESETS
from strokeseg_tf.engine.fused_norm import fuse_norms
from strokeseg_tf.engine.precision import precision
from strokeseg_tf.engine.recipe import compile_trainer
from strokeseg_tf.engine.threads import use_half_of_the_cores_for_an_operation
from strokeseg_tf.models.variants import build_model


def main():
    """Time both in turn."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="small", choices=PRESETS)
    parser.add_argument("--variant", default="dual_v1")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--bfloat16", action="store_true")
    parser.add_argument("--compile", action="store_true", help="PyTorch through torch.compile")
    options = parser.parse_args()
    use_half_of_the_cores_for_an_operation()
    config = PRESETS[options.preset].replace(model={"variant": options.variant})
    with precision("bfloat16" if options.bfloat16 else "float32"):
        network = build_model(config.model)
        trainer = fuse_norms(network)
        compile_trainer(trainer, config, steps_per_epoch=100)
    rng = np.random.default_rng(0)
    shape = (options.batch, config.model.image_size, config.model.image_size, 1)
    images = {m: rng.random(shape, np.float32) for m in network.input}
    masks = {m: (image > 0.99).astype(np.float32) for m, image in images.items()}
    peer = torch_step(network, images, masks, config, options)
    steps = {"ours": keras_step(trainer, images, masks)} | ({"PyTorch": peer} if peer else {})
    firsts = [step() for step in steps.values()]
    np.testing.assert_allclose(firsts, firsts[0], rtol=0.05 if options.bfloat16 else 1e-3)
    times = {name: [] for name in steps}
    for _ in range(options.steps):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            times[name].append(time.perf_counter() - start)
    for name, seconds in times.items():
        print(f"{name}: {statistics.median(seconds) / options.batch:.4f} s a slice pair")
    if peer:
        pairs = zip(times["ours"], times["PyTorch"], strict=True)
        print(f"ratio {statistics.median(our / their for our, their in pairs):.2f}")


def keras_step(trainer, images, masks):
    """A training step that gives its loss."""
    import tensorflow as tf

    batches = iter(tf.data.Dataset.from_tensors((images, masks)).repeat())
    trainer.make_train_function()

    def step():
        trainer.reset_metrics()
        return float(trainer.train_function(batches)["loss"])

    return step


def torch_step(network, images, masks, config, options):
    """The same in PyTorch; None where it is not installed."""
    try:
        import torch
    except ImportError:
        print("PyTorch is not installed: no comparison with it")
        return None
    from torch.nn import functional as F

    module = torch_twin(network).train().to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(module.parameters(), lr=1e-4, weight_decay=1e-5)
    model = torch.compile(module) if options.compile else module

    def tensors(arrays):
        moved = (torch.from_numpy(np.moveaxis(x, 3, 1).copy()) for x in arrays.values())
        return [x.to(memory_format=torch.channels_last) for x in moved]

    inputs, targets = tensors(images), tensors(masks)
    alpha, gamma = config.loss.alpha, config.loss.gamma

    def focal(z, y):
        signed = torch.where(y > 0, z, -z)
        weights = alpha * torch.where(y > 0, config.loss.lesion_weight, 1.0)
        return (weights * torch.exp(-gamma * F.softplus(signed)) * F.softplus(-signed)).mean()

    def step():
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=options.bfloat16):
            outputs = model(*inputs)
        loss = sum(focal(z.float(), y) for z, y in zip(outputs, targets, strict=True))
        loss.backward()
        if config.optimiser.clipnorm:
            for parameter in module.parameters():
                torch.nn.utils.clip_grad_norm_(parameter, config.optimiser.clipnorm)
        optimiser.step()
        return loss.item()

    return step


if __name__ == "__main__":
    main()
