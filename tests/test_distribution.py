"""Training by several workers: real processes on this machine, told of one another by TF_CONFIG."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

from strokeseg_tf.config import SMALL
from strokeseg_tf.engine.distribution import Cluster, check_sharing, read_cluster
from strokeseg_tf.engine.history import read_history
from strokeseg_tf.runs import Run
from tfrecord_tools.errors import InputError

WORKERS = {"worker": ["one:1", "two:1", "three:1"]}


def tf_config(cluster, task, index):
    return {"TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": task, "index": index}})}


def test_without_a_cluster_there_is_one_worker():
    assert read_cluster({}) == Cluster(1, 0) and read_cluster({}).writes


def test_workers_are_numbered_and_the_first_writes():
    clusters = [read_cluster(tf_config(WORKERS, "worker", i)) for i in range(3)]
    assert clusters == [Cluster(3, 0), Cluster(3, 1), Cluster(3, 2)]
    assert [cluster.writes for cluster in clusters] == [True, False, False]


def test_a_chief_comes_before_the_workers():
    addresses = WORKERS | {"chief": ["zero:1"]}
    assert read_cluster(tf_config(addresses, "chief", 0)) == Cluster(4, 0)
    assert read_cluster(tf_config(addresses, "worker", 2)) == Cluster(4, 3)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "3",
        "[]",
        '{"cluster": {}}',
        tf_config(WORKERS, "worker", 3)["TF_CONFIG"],
        tf_config(WORKERS, "worker", -1)["TF_CONFIG"],
        tf_config(WORKERS, "ps", 0)["TF_CONFIG"],
        tf_config(WORKERS | {"ps": ["four:1"]}, "worker", 0)["TF_CONFIG"],
    ],
)
def test_what_describes_no_cluster_is_refused_by_name(text):
    with pytest.raises(InputError, match="TF_CONFIG"):
        read_cluster({"TF_CONFIG": text})


TINY = SMALL.replace(
    model={"filters": [3, 4], "bottleneck": 4, "image_size": 32},
    optimiser={"ema_momentum": 0.9},
    training={"epochs": 2, "batch_size": 8},
)


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def start_workers(count, shards, run, config, *options, others=None):
    """`strokeseg-tf fit` in so many processes; in one without TF_CONFIG.

    Run folder and settings of all, or those of the first and `others`.
    """
    cluster = {"worker": [f"127.0.0.1:{port}" for port in free_ports(count)]}

    def command(run, config):
        config_file = run.with_name(f"{run.name}-{config.training.seed}.json")
        config_file.write_text(json.dumps(config.to_dict()))
        fit = ["fit", shards, "--run", run, "--config", config_file, *options]
        return [sys.executable, "-m", "strokeseg_tf.cli", *map(str, fit)]

    return [
        subprocess.Popen(
            command(*(others or (run, config) if index else (run, config))),
            env=os.environ | (tf_config(cluster, "worker", index) if count > 1 else {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(count)
    ]


def end_well(workers):
    for worker in workers:
        _, errors = worker.communicate(timeout=200)
        assert worker.returncode == 0, errors


def weights_of(run):
    return keras.saving.load_model(run / "model.keras", compile=False).get_weights()


@pytest.mark.slow
def test_two_workers_train_as_one_and_go_on_after_one_was_killed(shards, tmp_path):
    """The same batches, statistics over the whole batch: the same weights to 1e-4."""
    alone, together, killed = (tmp_path / name for name in ("alone", "together", "killed"))
    end_well(start_workers(1, shards, alone, TINY))
    end_well(start_workers(2, shards, together, TINY))
    for one, other in zip(weights_of(alone), weights_of(together), strict=True):
        np.testing.assert_allclose(other, one, atol=1e-4)
    for one, other in zip(*(read_history(Run(r)) for r in (alone, together)), strict=True):
        timing = {name: other[name] for name in ("seconds", "slice_pairs_per_second")}
        assert other == pytest.approx(one | timing, rel=1e-3, abs=1e-3)

    longer = TINY.replace(training={"epochs": 40})
    first, second = start_workers(2, shards, killed, longer)
    deadline = time.monotonic() + 120
    while not Run(killed).history_file.is_file() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(second.pid, signal.SIGKILL)
    _, errors = first.communicate(timeout=120)
    assert first.returncode == 2
    assert "another worker" in errors.splitlines()[-1]
    second.communicate()
    before = len(read_history(Run(killed)))
    assert 1 <= before < 40
    for others, told in (
        ((tmp_path / "elsewhere", longer), "one folder that all of them see"),
        ((killed, longer.replace(training={"seed": 7})), "different settings"),
    ):
        for worker in start_workers(2, shards, killed, longer, "--resume", others=others):
            _, errors = worker.communicate(timeout=120)
            assert worker.returncode == 2 and told in errors.splitlines()[-1], errors
    end_well(start_workers(2, shards, killed, longer, "--resume"))
    assert len(read_history(Run(killed))) == 40


def test_what_several_devices_cannot_share_is_refused():
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    check_sharing(6, "bfloat16", Cluster(), strategy)
    with pytest.raises(InputError, match="float16 trains on one device only"):
        check_sharing(6, "float16", Cluster(), strategy)


TWO_DEVICES = """
import json, sys
import tensorflow as tf
from strokeseg_tf import training
from strokeseg_tf.config import Config

(cpu,) = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, 2 * [tf.config.LogicalDeviceConfiguration()])
# What two GPUs would give.
training.build_strategy = lambda cluster: tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
training.fit(*sys.argv[1:3], Config().replace(**json.loads(sys.argv[3])), verbose=False)
"""


@pytest.mark.slow
def test_two_devices_of_a_machine_train_as_one(shards, tmp_path):
    alone, together = tmp_path / "alone", tmp_path / "together"
    end_well(start_workers(1, shards, alone, TINY))
    arguments = [str(shards), str(together), json.dumps(TINY.to_dict())]
    subprocess.run([sys.executable, "-c", TWO_DEVICES, *arguments], check=True)
    for one, other in zip(weights_of(alone), weights_of(together), strict=True):
        np.testing.assert_allclose(other, one, atol=1e-4)


WAIT_ALONE = """
from strokeseg_tf.engine.distribution import build_strategy, read_cluster
from tfrecord_tools.errors import InputError
import os
try:
    build_strategy(read_cluster(), wait_seconds=3)
except InputError as error:
    print(error, flush=True)
os._exit(0)
"""


@pytest.mark.slow
def test_a_worker_whose_first_one_never_starts_says_so():
    cluster = {"worker": [f"127.0.0.1:{port}" for port in free_ports(2)]}
    environment = os.environ | tf_config(cluster, "worker", 1)
    command = [sys.executable, "-c", WAIT_ALONE]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    told = "of 2 workers not all were there after 3 s" in result.stdout
    assert told or "Timeout" in result.stderr, result.stderr
    assert "waiting for 2 workers" in result.stderr
