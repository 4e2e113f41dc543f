"""Claims: of a study's time in the exported SavedModel less than 3 % is spent outside of the
network, over gRPC less than 10 %; a server's memory stays steady over 500 requests.

A network of a preset, untrained, is exported and answers a study of 24 slices of 256 x 256:

- the graph as it is exported against the same graph around the network as it was trained
  (normalisation and dropout in place), in turn: size on disk, latency;
- the precisions of `export`, in turn: size on disk, latency;
- in process, over gRPC and over REST, in turn with the bare network on slices that are ready;
- requests a second of 1, 4 and 16 clients, and the server's memory while it answers;
- 1, 2 and 4 studies at once of one client, with one and with two server processes: what
  `--parallel` gains;
- a fresh process with TensorFlow alone, up to its first mask.

The server is the tests' stand-in for TensorFlow Serving, in a process of its own on this machine:
it runs the same graph, but in Python, so the real server's share is smaller. Medians, and medians
of ratios within a round.
"""

import argparse
import contextlib
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# First: it says how TensorFlow, which Keras loads, is to compute.
from strokeseg_tf.config import PRESETS
from strokeseg_tf.loading import SavedModelPredictor, load_predictor
from strokeseg_tf.models.variants import build_model
from strokeseg_tf.preprocessing import preprocess, volume_range
from strokeseg_tf.runs import Run
from strokeseg_tf.serving.export import export
from strokeseg_tf.serving.inference import inference_network
from strokeseg_tf.serving.signature import CHUNK, StudyModel

SHAPE = (24, 256, 256)
PARTS = ("graph", "precision", "protocol", "start", "load", "parallel")
SERVER = Path(__file__).parents[1] / "tests" / "tf_serving.py"

COLD_START = """
import sys, time
start = time.perf_counter()
import numpy as np, tensorflow as tf
imported = time.perf_counter()
model = tf.saved_model.load(sys.argv[1])
loaded = time.perf_counter()
study = {m: np.random.default_rng(0).random((24, 256, 256), np.float32) for m in ("adc", "dwi")}
model.signatures["study_masks"](**study)["dwi_mask"].numpy()
done = time.perf_counter()
print(imported - start, loaded - imported, done - loaded)
"""


def make_study():
    """A study of noise: the time does not depend on what is in it."""
    import numpy as np

    rng = np.random.default_rng(0)
    return {m: rng.normal(800, 300, SHAPE).astype(np.float32) for m in ("adc", "dwi")}


def in_turn(ways, rounds):
    """Seconds of each way by name, a list of `rounds`; the ways take turns after one to warm up."""
    seconds = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            if number:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(some, others):
    """Median of the ratios within a round."""
    return statistics.median(a / b for a, b in zip(some, others, strict=True))


def on_disk_mb(folder):
    """Megabytes of a SavedModel: graph and variables."""
    files = [folder / "saved_model.pb", *(folder / "variables").iterdir()]
    return sum(path.stat().st_size for path in files) / 1e6


def write_run(folder, config):
    """A run folder with untrained weights."""
    run = Run(folder)
    folder.mkdir()
    run.write_config(config)
    build_model(config.model).save(run.model_file)
    return run


def save_unfolded(network, folder):
    """The same graph around the network as it was trained."""
    import tensorflow as tf

    model = StudyModel(network, threshold=0.5, description={})
    tf.saved_model.save(model, str(folder), signatures=model.signatures())
    return folder


def compare_graphs(folders, study, rounds):
    """Print size and latency of SavedModels by name; the first is what the others are held to."""
    models = {name: SavedModelPredictor(folder) for name, folder in folders.items()}
    ways = {name: lambda model=model: model.predict(study) for name, model in models.items()}
    seconds = in_turn(ways, rounds)
    first = next(iter(seconds.values()))
    for name, folder in folders.items():
        middle, relative = statistics.median(seconds[name]), ratio(seconds[name], first)
        print(f"{name:20} {on_disk_mb(folder):6.1f} MB  {middle:6.3f} s  ratio {relative:.2f}")


def bare_network(network, study):
    """The network alone on slices that are ready, in the chunks of the served graph."""
    import tensorflow as tf

    size = next(iter(network.input.values())).shape[1]
    inputs = {m: preprocess(v, volume_range(v), size) for m, v in study.items()}
    chunks = [{m: x[i : i + CHUNK] for m, x in inputs.items()} for i in range(0, SHAPE[0], CHUNK)]
    forward = tf.function(lambda chunk: network(chunk, training=False))

    def run():
        for chunk in chunks:
            for logits in forward(chunk).values():
                logits.numpy()

    return run


def as_here():
    """Environment of a process that computes as this one does, without a word."""
    return os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "1"}


@contextlib.contextmanager
def running_server(folder):
    """The stand-in in a process of its own: its process and its two addresses."""
    ports = ["--grpc-port", "0", "--rest-port", "0"]
    command = [sys.executable, str(SERVER), f"strokeseg={folder}", *ports]
    server = subprocess.Popen(command, env=as_here(), stdout=subprocess.PIPE, text=True)
    try:
        grpc_port, rest_port = re.findall(r"\d+", server.stdout.readline())
        yield (
            server,
            [
                f"grpc://127.0.0.1:{grpc_port}/strokeseg",
                f"http://127.0.0.1:{rest_port}/v1/models/strokeseg",
            ],
        )
    finally:
        server.terminate()
        server.wait()


def memory_mib(pid):
    """Resident memory of a process."""
    text = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return int(re.search(r"VmRSS:\s+(\d+)", text)[1]) / 1024


def compare_ways(run, folder, study, rounds):
    """Print the latency of each way to the network, and the share outside of it."""
    network = inference_network(build_model(run.read_config().model))
    with running_server(folder.parent) as (_, addresses):
        ways = {"bare network": bare_network(network, study)}
        for name in (folder, *addresses):
            predictor = load_predictor(name)
            label = str(name).partition(":")[0] if name in addresses else "in process"
            ways[label] = lambda predictor=predictor: predictor.predict(study)
        seconds = in_turn(ways, rounds)
    for name, times in seconds.items():
        outside = 1 - ratio(seconds["bare network"], times)
        print(f"{name:14} {statistics.median(times):.3f} s, outside of the network {outside:.1%}")


def load_test(folder, study, requests, clients):
    """Print requests a second by number of clients, and what happens to memory."""
    with running_server(folder.parent) as (server, addresses):
        predictor = load_predictor(addresses[0])
        for _ in range(10):
            predictor.predict(study)
        print(f"memory after 10 requests: {memory_mib(server.pid):.0f} MiB")
        for count in clients:
            memories = []
            with ThreadPoolExecutor(count) as executor:
                start = time.perf_counter()
                for _ in range(5):
                    list(executor.map(lambda _: predictor.predict(study), range(requests // 5)))
                    memories.append(f"{memory_mib(server.pid):.0f}")
                taken = time.perf_counter() - start
            rate = 5 * (requests // 5) / taken
            print(
                f"{count:3} clients: {rate:.2f} requests/s; server's memory after each fifth of "
                f"{requests}: {', '.join(memories)} MiB"
            )


def compare_parallel(folder, study, rounds, studies=8):
    """Print what studies at once gain, with one server process and with two."""
    with running_server(folder.parent) as (_, first), running_server(folder.parent) as (_, second):
        hosts = [addresses[0].split("/")[2] for addresses in (first, second)]
        ways = {}
        for count in (1, 2):
            predictor = load_predictor(f"grpc://{','.join(hosts[:count])}/strokeseg")
            for at_once in (1, 2, 4):
                executor = ThreadPoolExecutor(at_once)
                ways[f"{count} servers, {at_once} at once"] = lambda p=predictor, e=executor: list(
                    e.map(lambda _: p.predict(study), range(studies))
                )
        seconds = in_turn(ways, rounds)
    first = next(iter(seconds.values()))
    for name, times in seconds.items():
        rate, gain = studies / statistics.median(times), ratio(first, times)
        print(f"{name:22} {rate:5.2f} studies/s, {gain:.2f} times the first")


def cold_start(folder, rounds):
    """Print how long a fresh process takes, with TensorFlow alone."""
    parts = []
    for _ in range(rounds):
        command = [sys.executable, "-c", COLD_START, str(folder)]
        done = subprocess.run(command, env=as_here(), check=True, stdout=subprocess.PIPE)
        parts.append([float(part) for part in done.stdout.split()])
    load, first = (statistics.median(part[i] for part in parts) for i in (1, 2))
    start = statistics.median(part[0] for part in parts)
    print(
        f"cold start to the first mask: {start + load + first:.1f} s (TensorFlow {start:.1f} s, "
        f"model {load:.1f} s, first study {first:.1f} s)"
    )


def main():
    """All of it, for each preset."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", choices=PRESETS, default="small", help="network to serve")
    parser.add_argument("--rounds", type=int, default=9, help="how often each way is timed")
    parser.add_argument("--requests", type=int, default=500, help="by each number of clients")
    parser.add_argument("--clients", type=int, nargs="*", default=[1, 4, 16])
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=PARTS, help="what to measure")
    options = parser.parse_args()
    study, config = make_study(), PRESETS[options.preset]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run = write_run(folder / "run", config)
        served = export(run.folder, folder / "strokeseg")
        print(f"{options.preset}, {config.model.variant}; study of {SHAPE}")
        if "graph" in options.parts:
            plain = save_unfolded(build_model(config.model), folder / "plain")
            compare_graphs({"as trained": plain, "as exported": served}, study, options.rounds)
        if "precision" in options.parts:
            precisions = {"float32": served} | {
                precision: export(run.folder, folder / precision, precision=precision)
                for precision in ("int8", "bfloat16")
            }
            compare_graphs(precisions, study, options.rounds)
        if "protocol" in options.parts:
            compare_ways(run, served, study, options.rounds)
        if "start" in options.parts:
            cold_start(served, 3)
        if "parallel" in options.parts:
            compare_parallel(served, study, options.rounds)
        if "load" in options.parts:
            load_test(served, study, options.requests, options.clients)


if __name__ == "__main__":
    main()
