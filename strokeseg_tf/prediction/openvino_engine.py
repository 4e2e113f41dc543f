"""Networks on OpenVINO: on CPUs the fastest, and without TensorFlow in the process."""

import json
import math
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from strokeseg_tf.prediction.network import batch_size_of
from strokeseg_tf.prediction.openvino_conversion import REFUSED
from strokeseg_tf.silent_openvino import import_openvino
from tfrecord_tools.errors import InputError
from tfrecord_tools.study_files import MODALITIES

#: OpenVINO's names of our precisions.
PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}

#: Batches of 8 take 0.9 of the time, but studies seldom have a multiple of 8 slices.
SLICES = 4

#: Keras has one backend a process, and this one may need it for TensorFlow.
CONVERSION = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from strokeseg_tf.prediction.openvino_conversion import main; main()"
)


class OpenVinoEngine:
    """Computes a network as OpenVINO does; see `strokeseg_tf.prediction.network.Engine`.

    Safe with several threads: they take turns, each call takes all cores.

    Args:
        file: A `.keras` file.
        precision: "float32", or "bfloat16", in which kernels and feature maps are rounded.

    Raises:
        InputError: The file cannot be loaded, or OpenVINO cannot compute it.
    """

    def __init__(self, file: Path, precision: str = "float32"):
        openvino = import_openvino()
        core = openvino.Core()
        # The files vanish.
        core.set_property({"ENABLE_MMAP": False})
        with tempfile.TemporaryDirectory(prefix="strokeseg-") as folder:
            graph = Path(folder) / "network.xml"
            _convert(file, graph)
            network = core.read_model(graph)
        names = [tensor.any_name for tensor in network.inputs]
        self.modalities = tuple(m for m in MODALITIES if m in names)
        self.size = network.inputs[0].partial_shape[2].get_length()
        self.batch_size = min(batch_size_of(_map_elements(network)), SLICES)
        version = openvino.__version__.partition("-")[0]
        self.name = f"OpenVINO {version}, {precision}"
        self._core, self._network = core, network
        # Without the hint it would turn to half precision by itself where the CPU has it.
        self._hints = {"INFERENCE_PRECISION_HINT": PRECISIONS[precision]}
        self._compiled, self._turn = {}, threading.Lock()

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Logits, float32 `(slices, size, size, 1)` by modality, of such inputs."""
        # Of a single channel, the two orders of axes are the same in memory.
        shape = (-1, 1, self.size, self.size)
        maps = {m: np.reshape(x, shape) for m, x in inputs.items()}
        with self._turn:
            outputs = self._compiled_for(len(maps[self.modalities[0]]))(maps)
            return {
                m: np.array(outputs[f"{m}_logits"]).reshape(-1, self.size, self.size, 1)
                for m in self.modalities
            }

    def _compiled_for(self, slices: int):
        """The network for batches of one size: computed in 0.7 of the time of any size."""
        if slices not in self._compiled:
            network = self._network.clone()
            network.reshape(dict.fromkeys(self.modalities, [slices, 1, self.size, self.size]))
            self._compiled[slices] = self._core.compile_model(network, "CPU", self._hints)
        return self._compiled[slices]


def _map_elements(network):
    """Values of each feature map, of one slice."""
    for operation in network.get_ordered_ops():
        for output in operation.outputs():
            shape = output.partial_shape
            if shape.rank.is_static and len(shape) == 4 and shape[0].is_dynamic:
                yield math.prod(d.get_length() for d in list(shape)[1:] if d.is_static)


def _convert(file: Path, graph: Path) -> None:
    command = [sys.executable, "-c", CONVERSION, json.dumps(sys.path), str(file), str(graph)]
    environment = os.environ | {"KERAS_BACKEND": "openvino"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no word"])[-1][:300]
        if done.returncode != REFUSED:
            reason = f"{file} could not be converted for OpenVINO ({done.returncode}: {reason})"
        raise InputError(reason)
