"""Claim: a training step on a CPU is no slower than the same network's in PyTorch.

Our step (Keras with the fused twin and the flat AdamW, two operations at a time) and PyTorch's
(channels last, fused AdamW, the same focal loss; eager and through `torch.compile`) take turns in
one process on constant data, in float32 and in bfloat16. PyTorch is no dependency: without it, ours
is timed alone. Medians a slice pair and the medians of the ratios are printed, by the clock; the
losses of the first step must agree.
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
from strokeseg_tf.engine.precision import precision
from strokeseg_tf.engine.recipe import compile_trainer
from strokeseg_tf.engine.threads import use_half_of_the_cores_for_an_operation
from strokeseg_tf.engine.training_twin import build_twin
from strokeseg_tf.models.variants import build_model

PRECISIONS = ("float32", "bfloat16")
#: Relative difference of the losses of a first step.
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.05}


def main():
    """Time all in turn."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="small", choices=PRESETS)
    parser.add_argument("--variant", default="dual_v1")
    parser.add_argument("--narrow", type=int, default=1, help="divides the preset's widths")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--precisions", nargs="+", default=PRECISIONS, choices=PRECISIONS)
    parser.add_argument("--no-compile", action="store_true", help="PyTorch eager alone")
    parser.add_argument("--alone", action="store_true", help="without PyTorch")
    options = parser.parse_args()
    use_half_of_the_cores_for_an_operation()
    config = PRESETS[options.preset]
    model = config.model
    config = config.replace(
        model={
            "variant": options.variant,
            "filters": [width // options.narrow for width in model.filters],
            "bottleneck": model.bottleneck // options.narrow,
        }
    )
    rng = np.random.default_rng(0)
    shape = (options.batch, model.image_size, model.image_size, 1)
    images = {m: rng.random(shape, np.float32) for m in config.model.modalities}
    masks = {m: (image > 0.99).astype(np.float32) for m, image in images.items()}
    for name in options.precisions:
        steps = make_steps(config, images, masks, name, options)
        firsts = [step() for step in steps.values()]
        np.testing.assert_allclose(firsts, firsts[0], rtol=TOLERANCE[name])
        print_times(name, take_turns(steps, options.steps), options.batch)


def make_steps(config, images, masks, name, options):
    """`{title: step}`, each step a function that gives its loss."""
    with precision(name):
        network = build_model(config.model)
        trainer = build_twin(network)
        compile_trainer(trainer, config, total_steps=100)
    steps = {"ours": keras_step(trainer, images, masks)}
    if options.alone:
        return steps
    try:
        import torch  # noqa: F401
    except ImportError:
        print("PyTorch is not installed: no comparison with it")
        return steps
    half = name == "bfloat16"
    steps["PyTorch"] = torch_step(network, images, masks, config, half=half, compiled=False)
    if not options.no_compile:
        compiled = torch_step(network, images, masks, config, half=half, compiled=True)
        steps["PyTorch, compiled"] = compiled
    return steps


def take_turns(steps, rounds):
    """Seconds of each step in each round, after one of each that is not counted."""
    times = {name: [] for name in steps}
    for number in range(rounds + 1):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if number:
                times[name].append(time.perf_counter() - start)
    return times


def print_times(precision_name, times, batch):
    """A line a contestant."""
    for name, seconds in times.items():
        ratio = statistics.median(a / b for a, b in zip(times["ours"], seconds, strict=True))
        print(
            f"{precision_name:9} {name:18} {statistics.median(seconds) / batch:.4f} s a slice pair"
            f"  ours to it {ratio:.2f}",
            flush=True,
        )


def keras_step(trainer, images, masks):
    """A training step that gives its loss."""
    import tensorflow as tf

    batches = iter(tf.data.Dataset.from_tensors((images, masks)).repeat())
    trainer.make_train_function()

    def step():
        trainer.reset_metrics()
        return float(trainer.train_function(batches)["loss"])

    return step


def torch_step(network, images, masks, config, *, half, compiled):
    """The same in PyTorch."""
    import torch
    from torch.nn import functional as F

    module = torch_twin(network).train().to(memory_format=torch.channels_last)
    settings = config.optimiser
    optimiser = torch.optim.AdamW(
        module.parameters(), lr=1e-4, weight_decay=settings.weight_decay, fused=True
    )
    model = torch.compile(module) if compiled else module

    def tensors(arrays):
        moved = (torch.from_numpy(np.moveaxis(x, 3, 1).copy()) for x in arrays.values())
        return [x.to(memory_format=torch.channels_last) for x in moved]

    inputs, targets = tensors(images), tensors(masks)
    alpha, gamma = config.loss.alpha, config.loss.gamma

    def focal(z, y):
        signed = torch.where(y > 0, z, -z)
        weights = alpha * torch.where(y > 0, config.loss.lesion_weight, 1.0)
        return (weights * torch.exp(-gamma * F.softplus(signed)) * F.softplus(-signed)).mean()

    def clip(limit):
        gradients = [p.grad for p in module.parameters()]
        norms = torch._foreach_norm(gradients)
        torch._foreach_mul_(gradients, [torch.clamp(limit / (n + 1e-12), max=1.0) for n in norms])

    def step():
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            outputs = model(*inputs)
        loss = sum(focal(z.float(), y) for z, y in zip(outputs, targets, strict=True))
        loss.backward()
        if settings.clipnorm:
            clip(settings.clipnorm)
        optimiser.step()
        return loss.item()

    return step


if __name__ == "__main__":
    main()
