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
from strokeseg_tf.prediction.openvino_conversion import OUT, REFUSED
from strokeseg_tf.silent_openvino import import_openvino
from tfrecord_tools.errors import InputError
from tfrecord_tools.study_files import MODALITIES

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
        precision: "float32" or "bfloat16", see
            `strokeseg_tf.prediction.openvino_conversion.convert`.

    Raises:
        InputError: The file cannot be loaded, or OpenVINO cannot compute it.
    """

    def __init__(self, file: Path, precision: str = "float32"):
        openvino = import_openvino()
        self._core = openvino.Core()
        # The files vanish.
        self._core.set_property({"ENABLE_MMAP": False})
        with tempfile.TemporaryDirectory(prefix="strokeseg-") as folder:
            _convert(file, folder, precision)
            graphs = sorted(Path(folder).glob("*.xml"))
            self._parts = [self._core.read_model(graph) for graph in graphs]
            # Unasked, OpenVINO would turn to half precision where the CPU has it.
            self._hints = [graph.stem.partition("-")[2] for graph in graphs]
        names = [tensor.any_name for tensor in self._parts[0].inputs]
        self.modalities = tuple(m for m in MODALITIES if m in names)
        self.size = self._parts[0].inputs[0].partial_shape[2].get_length()
        self.batch_size = min(batch_size_of(_map_elements(self._parts)), SLICES)
        version = openvino.__version__.partition("-")[0]
        self.name = f"OpenVINO {version}, {precision}"
        self._compiled, self._turn = {}, threading.Lock()

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Logits, float32 `(slices, size, size, 1)` by modality, of such inputs."""
        # Of a single channel, the two orders of axes are the same in memory.
        shape = (-1, 1, self.size, self.size)
        maps = {m: np.reshape(x, shape) for m, x in inputs.items()}
        with self._turn:
            for part in self._compiled_for(len(maps[self.modalities[0]])):
                outputs = part(maps, share_inputs=True, share_outputs=True)
                maps = {port.any_name.removesuffix(OUT): x for port, x in outputs.items()}
            return {
                m: np.array(maps[m]).reshape(-1, self.size, self.size, 1) for m in self.modalities
            }

    def _compiled_for(self, slices: int):
        """The parts for batches of one size: computed in 0.7 of the time of any size."""
        if slices not in self._compiled:
            self._compiled[slices] = [
                self._core.compile_model(
                    _in_batches(part, slices), "CPU", {"INFERENCE_PRECISION_HINT": hint}
                )
                for part, hint in zip(self._parts, self._hints, strict=True)
            ]
        return self._compiled[slices]


def _in_batches(network, slices: int):
    network = network.clone()
    shapes = {tensor.any_name: list(tensor.partial_shape) for tensor in network.inputs}
    network.reshape({name: [slices, *shape[1:]] for name, shape in shapes.items()})
    return network


def _map_elements(networks):
    """Values of each feature map of one slice."""
    for network in networks:
        for operation in network.get_ordered_ops():
            shape = operation.output(0).partial_shape if operation.outputs() else ()
            if len(shape) == 4 and shape[0].is_dynamic:
                yield math.prod(axis.get_length() for axis in list(shape)[1:])


def _convert(file: Path, folder: str, precision: str) -> None:
    command = [sys.executable, "-c", CONVERSION, json.dumps(sys.path), str(file), folder, precision]
    environment = os.environ | {"KERAS_BACKEND": "openvino"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no word"])[-1][:300]
        if done.returncode != REFUSED:
            reason = f"{file} could not be converted for OpenVINO ({done.returncode}: {reason})"
        raise InputError(reason)
