"""What is asked of local prediction: at full size no slower than PyTorch on the same CPU; a mask on
the disk within 8 s of typing `predict` (small model, one study); less than 5 % of a cohort's time
outside of the network; under 3 GiB at full size for any number of slices.

Networks are untrained, with the moving statistics of normalisation drawn at random. Parts:

- `engines`: Dual V1 on slices that are ready, in each engine and precision that `predict` has, in
  turn with the folded network in PyTorch (channels last, inference mode; compiled where there is a
  C++ compiler; bfloat16 where the CPU multiplies it), where that is installed; and the rate of a
  large matrix product, which is the limit: at full size a slice pair needs 86.6 GFLOP.
- `start`: fresh processes of the command, from start to exit, on one study, in each engine.
- `cohort`: studies through the command's own code, against the network alone on the same studies.
- `memory`: peak of a fresh process that predicts 24 slices, and twice as many.

Medians, and medians of ratios within a round.
"""

import argparse
import functools
import importlib.util
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

# First: it says how TensorFlow, which Keras loads, is to compute.
from torch_twin import torch_twin

from strokeseg_tf.config import PRESETS
from strokeseg_tf.hardware import cpu_multiplies_bfloat16
from strokeseg_tf.models.variants import build_model
from strokeseg_tf.runs import Run

PARTS = ("engines", "start", "cohort", "memory")
GFLOP_A_PAIR = 86.6


def make_run(folder, preset):
    """A run folder with a network whose normalisation has something to fold."""
    import keras

    keras.utils.set_random_seed(0)
    config, rng = PRESETS[preset], np.random.default_rng(0)
    network = build_model(config.model)
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([rng.uniform(0.7, 1.3, w.shape) for w in layer.get_weights()])
    folder.mkdir(parents=True)
    Run(folder).write_config(config)
    network.save(Run(folder).model_file)
    return folder


def make_study(slices):
    """Images of a study, 256 x 256."""
    rng = np.random.default_rng(0)
    return {m: rng.random((slices, 256, 256), np.float32) for m in ("adc", "dwi")}


def timed(function, clock=time.perf_counter):
    """Seconds by the clock."""
    start = clock()
    function()
    return clock() - start


def in_turn(functions, rounds, clock=time.perf_counter):
    """Seconds of each function by name, a list of rounds; one round more goes before."""
    for function in functions.values():
        function()
    times = [{name: timed(function, clock) for name, function in functions.items()}
             for _ in range(rounds)]  # fmt: skip
    return {name: [seconds[name] for seconds in times] for name in functions}


def installed_engines():
    """Names of the engines that this machine has."""
    return ["tensorflow", *["openvino"] * bool(importlib.util.find_spec("openvino"))]


def engines_of(run):
    """A run's network in each engine and precision that this machine has."""
    from strokeseg_tf.prediction.engines import Computing, load_engine

    precisions = ["float32"] + ["bfloat16"] * cpu_multiplies_bfloat16()
    ways = [Computing(engine, p) for engine in installed_engines() for p in precisions]
    return [load_engine(Run(run).model_file, way) for way in ways]


def compare_engines(run, slices, rounds, one_core):
    """Print what a slice pair takes in each engine, and against the default."""
    from strokeseg_tf.loading import load_predictor
    from strokeseg_tf.prediction.network import NetworkPredictor
    from strokeseg_tf.runs import load_network
    from strokeseg_tf.serving.inference import inference_network

    default = load_predictor(run).engine.name
    size, rng = load_predictor(run).size, np.random.default_rng(0)
    inputs = {m: rng.random((slices, size, size, 1), np.float32) for m in ("adc", "dwi")}
    engines = {}
    for engine in engines_of(run):
        predictor = NetworkPredictor(engine)
        engines[engine.name] = lambda predictor=predictor: predictor.logits(inputs)["adc"]
    folded = inference_network(load_network(Run(run).model_file))
    engines |= peers(folded, inputs)
    check_agreement({name: engine() for name, engine in engines.items()})
    product, gflop = matrix_product()
    engines["matrix product"] = product
    # Processor time is what a busy machine leaves alone, but several threads wait in it too.
    clock = time.process_time if one_core else time.perf_counter
    times = in_turn(engines, rounds, clock)
    rate = gflop / statistics.median(times.pop("matrix product"))
    print(f"a matrix product of 3072 x 3072 reaches {rate:.0f} GFLOP/s; `predict` uses {default}")
    ours = times[default]
    for name, seconds in times.items():
        ratio = statistics.median(s / o for o, s in zip(ours, seconds, strict=True))
        pair = statistics.median(seconds) / slices
        note = f", {GFLOP_A_PAIR / pair:.0f} GFLOP/s" if size == 224 else ""
        print(f"{name:32s} {pair:7.4f} s a slice pair{note}; {ratio:.2f} times the default's")


def check_agreement(logits):
    """Refuse to compare engines that compute different things; bfloat16 is left out."""
    exact = {name: values for name, values in logits.items() if "bfloat16" not in name}
    expected = next(iter(exact.values()))
    for name, values in exact.items():
        difference = np.abs(values - expected).max()
        assert difference < 1e-2 * np.abs(expected).max(), (name, difference)


def matrix_product(size=3072):
    """A large product in TensorFlow, and its GFLOP."""
    import tensorflow as tf

    matrix = tf.random.stateless_uniform((size, size), (0, 0))
    return lambda: tf.matmul(matrix, matrix).numpy(), 2 * size**3 / 1e9


def peers(network, inputs):
    """Function giving the logits of ADC by name, of PyTorch where it is installed."""
    try:
        import torch
    except ImportError:
        print("PyTorch is not installed: no comparison with it")
        return {}
    found = {}
    for precision in [torch.float32] + [torch.bfloat16] * cpu_multiplies_bfloat16():
        layout = {"dtype": precision, "memory_format": torch.channels_last}
        twin = torch_twin(network).eval().to(**layout)
        tensors = [torch.from_numpy(np.moveaxis(x, 3, 1).copy()).to(**layout)
                   for x in inputs.values()]  # fmt: skip

        def run(module, tensors=tensors):
            with torch.inference_mode():
                return np.moveaxis(module(*tensors)[0].float().numpy(), 1, 3)

        name = f"PyTorch {torch.__version__}, {str(precision).removeprefix('torch.')}"
        found[name] = functools.partial(run, twin)
        try:
            compiled = torch.compile(twin)
            run(compiled)
            found[f"{name}, compiled"] = functools.partial(run, compiled)
        except Exception as error:  # Without a compiler it raises many kinds.
            print(f"torch.compile does not work here ({type(error).__name__})")
    return found


def write_studies(folder, count, slices):
    """Studies as NIfTI in a folder each."""
    import nibabel

    for index in range(count):
        home = folder / f"study{index:02d}"
        home.mkdir(parents=True)
        for modality, volume in make_study(slices).items():
            image = nibabel.Nifti1Image(np.moveaxis(volume, 0, 2), np.diag([-0.9, 0.9, 6, 1]))
            nibabel.save(image, home / f"{modality}.nii.gz")
    return sorted(folder.iterdir())


def measure_start(run, folder, rounds):
    """Print the seconds of fresh processes of the command."""
    (study,) = write_studies(folder / "one", 1, 24)
    program = "import sys; from strokeseg_tf.cli import main; sys.exit(main())"
    line = [sys.executable, "-c", program, "predict", run, study, "--overwrite", "-o"]
    command = [*map(str, line), str(folder / "out")]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "check": True}
    for engine in installed_engines():
        seconds, used = [], []
        for _ in range(rounds):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            whole = [*command, "--engine", engine]
            seconds.append(timed(lambda whole=whole: subprocess.run(whole, **quiet)))
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            used.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        print(
            f"predict by {engine}, from start to exit: {statistics.median(seconds):.1f} s, of "
            f"processor time {statistics.median(used):.1f} s"
        )


def measure_cohort(run, folder, rounds, studies):
    """Print what a cohort takes beside the network."""
    from strokeseg_tf.cohort import predict_cohort
    from strokeseg_tf.loading import load_predictor
    from tfrecord_tools.layouts import find_cases

    predictor = load_predictor(run)
    files = find_cases([str(path) for path in write_studies(folder / "many", studies, 24)])
    images = make_study(24)
    options = {"model": "benchmark", "overwrite": True}
    functions = {
        "network": lambda: [predictor.predict(images) for _ in files],
        "masks": lambda: predict_cohort(predictor, files, folder / "a", **options),
        "masks and pictures": lambda: predict_cohort(
            predictor, files, folder / "b", figures=True, **options
        ),
    }
    times = in_turn(functions, rounds)
    network = times["network"]
    print(f"the network alone: {statistics.median(network) / studies:.2f} s a study")
    for name in list(functions)[1:]:
        ratio = statistics.median(t / n for t, n in zip(times[name], network, strict=True))
        print(f"a cohort with {name}: {statistics.median(times[name]) / studies:.2f} s a study, "
              f"{ratio:.2f} times the network")  # fmt: skip


PEAK = """
import resource, sys
import numpy as np
from strokeseg_tf import Predictor
rng = np.random.default_rng(0)
study = {m: rng.random((int(sys.argv[2]), 256, 256), np.float32) for m in ("adc", "dwi")}
Predictor(sys.argv[1]).predict(**study)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def measure_memory(run):
    """Print the peak memory of fresh processes."""
    for slices in (24, 48):
        command = [sys.executable, "-c", PEAK, str(run), str(slices)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        print(f"{slices} slices: peak of {int(done.stdout) / 2**20:.2f} GiB")


def main():
    """Measure the parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="small", choices=["small", "paper"])
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS)
    parser.add_argument("--slices", type=int, default=8, help="slice pairs for the engines")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--studies", type=int, default=12, help="of the cohort")
    parser.add_argument(
        "--one-core", action="store_true", help="engines on one core, by processor time"
    )
    arguments = parser.parse_args()
    if arguments.one_core:
        os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        run = make_run(folder / "run", arguments.preset)
        if "engines" in arguments.parts:
            compare_engines(run, arguments.slices, arguments.rounds, arguments.one_core)
        if "start" in arguments.parts:
            measure_start(run, folder, arguments.rounds)
        if "cohort" in arguments.parts:
            measure_cohort(run, folder, arguments.rounds, arguments.studies)
        if "memory" in arguments.parts:
            measure_memory(run)


if __name__ == "__main__":
    main()
