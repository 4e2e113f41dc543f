"""Training on several devices and machines: synchronous, data-parallel, in TensorFlow.

All GPUs of one machine are used through `MirroredStrategy`. Several machines (or processes) are
told of one another by `TF_CONFIG`, as TensorFlow and its job schedulers do it, and train through
`MultiWorkerMirroredStrategy`; each worker makes and learns its part of every batch, and the first
one validates and writes the run folder.
"""

import contextlib
import dataclasses
import faulthandler
import json
import os
import sys
import zlib
from collections.abc import Mapping, Sequence

import keras
import numpy as np

from strokeseg_tf.config import Config
from tfrecord_tools.errors import InputError


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The workers that train together.

    Attributes:
        count: How many there are.
        index: Which of them this process is, from 0; the first writes the run folder.
    """

    count: int = 1
    index: int = 0

    @property
    def writes(self) -> bool:
        """Whether this worker validates and writes."""
        return self.index == 0


def read_cluster(environment: Mapping = os.environ) -> Cluster:
    """The cluster that the environment variable `TF_CONFIG` describes; one worker without it.

    Raises:
        InputError: It is no such description.
    """
    text = environment.get("TF_CONFIG")
    if not text:
        return Cluster()
    try:
        content = json.loads(text)
        addresses = content["cluster"]
        if set(addresses) - {"chief", "worker"}:
            raise ValueError(f"tasks other than chief and worker: {', '.join(addresses)}")
        chiefs, workers = len(addresses.get("chief", [])), len(addresses.get("worker", []))
        task, index = content["task"]["type"], int(content["task"]["index"])
        position = {"chief": index, "worker": chiefs + index}[task]
        if not 0 <= index < {"chief": chiefs, "worker": workers}[task]:
            raise ValueError(f"there is no {task} {index}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"the environment variable TF_CONFIG does not describe a cluster ({error}); write "
            '{"cluster": {"worker": ["HOST:PORT", ...]}, "task": {"type": "worker", "index": 0}}'
        ) from error
    return Cluster(chiefs + workers, position)


#: How long workers wait for each other to start: images are pulled, queues are stood in.
WAIT_SECONDS = 15 * 60
#: How much later the process ends where TensorFlow does not notice.
GRACE_SECONDS = 20


def build_strategy(cluster: Cluster, wait_seconds=WAIT_SECONDS):
    """TensorFlow's strategy for the cluster and this machine's GPUs; None for a single device.

    Several workers wait here for each other.

    Raises:
        InputError: Not all of them came in time.
    """
    import tensorflow as tf

    if cluster.count > 1:
        return _join(cluster, wait_seconds)
    several = len(tf.config.list_physical_devices("GPU")) > 1
    return tf.distribute.MirroredStrategy() if several else None


def _join(cluster, wait_seconds):
    """The strategy of several workers; TensorFlow by itself would wait for an hour.

    Now and then it does not keep the time it was given, and holds Python's lock meanwhile: then
    the process ends, with where it stood on standard error.
    """
    import tensorflow as tf
    from tensorflow.python.distribute import multi_worker_util
    from tensorflow.python.eager import context

    # As MultiWorkerMirroredStrategy does where nobody has done it before, but with a time.
    spec = tf.distribute.cluster_resolver.TFConfigClusterResolver().cluster_spec()
    context.context().configure_coordination_service(
        service_type="standalone",
        service_leader=multi_worker_util.coordination_leader(spec),
        cluster_register_timeout_in_ms=int(1000 * wait_seconds),
        coordinated_jobs=[
            # Where TensorFlow keeps the module moves from version to version.
            context.coordination_config_pb2.CoordinatedJob(name=job, num_tasks=spec.num_tasks(job))
            for job in spec.jobs
        ],
    )
    print(
        f"strokeseg-tf: waiting for {cluster.count} workers, at most {wait_seconds / 60:.3g} min",
        file=sys.stderr,
        flush=True,
    )
    late = wait_seconds + GRACE_SECONDS
    faulthandler.dump_traceback_later(late, exit=True, file=sys.__stderr__)
    try:
        return tf.distribute.MultiWorkerMirroredStrategy()
    except tf.errors.OpError as error:
        raise InputError(
            f"of {cluster.count} workers not all were there after {wait_seconds:.0f} s; start one "
            "for each address of TF_CONFIG, within reach of the others"
        ) from error
    finally:
        faulthandler.cancel_dump_traceback_later()


def scope(strategy):
    """Where the network and its optimiser are made."""
    return strategy.scope() if strategy else contextlib.nullcontext()


def check_sharing(batch_size: int, precision: str, cluster: Cluster, strategy) -> None:
    """Refuse what several devices cannot share.

    The batch must be the same for all of them: then all their gradients weigh the same.

    Raises:
        InputError: It cannot be divided; or the loss of float16 would be scaled by what one device
            has seen overflow.
    """
    devices = strategy.num_replicas_in_sync if strategy else 1
    if batch_size % devices:
        raise InputError(
            f"batches of {batch_size} slice pairs cannot be shared by {devices} devices on "
            f"{cluster.count} workers; give a --batch-size that is a multiple of {devices}"
        )
    if strategy and precision == "float16":
        raise InputError(
            "float16 trains on one device only, for each would scale its loss by itself; choose "
            "--precision bfloat16 or float32"
        )


def gather(strategy, values: Sequence[float]) -> np.ndarray:
    """What every device has, `(devices, values)`; all workers wait here for each other.

    Args:
        strategy: Of several workers.
        values: As many on each worker.
    """
    import tensorflow as tf

    own = strategy.run(lambda: tf.constant([list(map(float, values))], tf.float64))
    return strategy.gather(own, axis=0).numpy()


def check_agreement(strategy, config: Config, epochs_done: int) -> None:
    """Refuse workers that would train different things; each waits for the others.

    Raises:
        InputError: Their settings differ, or the epochs that they find in the run folder.
    """
    checksum = zlib.crc32(json.dumps(config.to_dict(), sort_keys=True).encode())
    differs = np.ptp(gather(strategy, [checksum, epochs_done]), axis=0) > 0
    if differs[0]:
        raise InputError("the workers were started with different settings; give all the same")
    if differs[1]:
        raise InputError(
            "the workers find different epochs in the run folder; --run must be one folder that "
            "all of them see, with --resume for all or for none"
        )


class StopTogether(keras.callbacks.Callback):
    """Ends the training of all workers where one of them has a reason to.

    Args:
        strategy: Of several workers.
    """

    def __init__(self, strategy):
        super().__init__()
        self._strategy = strategy

    def on_epoch_end(self, epoch, logs=None):
        self.model.stop_training = bool(gather(self._strategy, [self.model.stop_training]).any())


def distribute(batches, batch_size: int, cluster: Cluster, strategy):
    """This worker's part of the batches, divided among its devices.

    Args:
        batches: `tf.data.Dataset` of this worker's part of each batch.
        batch_size: Of all workers together.
        cluster: The workers.
        strategy: Of `build_strategy`.
    """
    if cluster.count > 1:
        # Each device of a worker takes what the dataset gives at a time.
        each = batch_size // strategy.num_replicas_in_sync
        own = batches.rebatch(each, drop_remainder=True)
        return strategy.distribute_datasets_from_function(lambda _: own)
    return strategy.experimental_distribute_dataset(batches) if strategy else batches


@contextlib.contextmanager
def telling_of_lost_workers():
    """Say in one line that another worker is gone.

    Raises:
        InputError: TensorFlow says so, at length.
    """
    import tensorflow as tf

    try:
        yield
    except tf.errors.OpError as error:
        if "ollective" not in str(error):
            raise
        raise InputError(
            "another worker stopped or cannot be reached any more; start all workers again with "
            "--resume, which goes on after the last epoch that was kept"
        ) from error
