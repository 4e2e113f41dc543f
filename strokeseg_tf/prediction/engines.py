"""Which engine computes a network here, and in which precision."""

import dataclasses
import importlib.util
from pathlib import Path

from strokeseg_tf.console import remark
from strokeseg_tf.hardware import cpu_multiplies_bfloat16, may_have_gpu
from tfrecord_tools.errors import InputError

ENGINES = ("auto", "tensorflow", "openvino")
PRECISIONS = ("auto", "float32", "bfloat16")

#: Up to so many weights become constants: a full-size network computes in 0.87 of the time then,
#: but takes 4.7 GiB instead of 1.4.
FROZEN_WEIGHTS = 10_000_000


@dataclasses.dataclass(frozen=True)
class Computing:
    """How the network of a run is to be computed.

    Attributes:
        engine: "openvino", "tensorflow", or "auto": OpenVINO where it is installed and there is no
            GPU.
        precision: "float32", "bfloat16", or "auto": bfloat16 with OpenVINO on CPUs that multiply
            it. TensorFlow rounds the whole network, and masks lose more than twice as much.
    """

    engine: str = "auto"
    precision: str = "auto"

    def __post_init__(self):
        for name, known in (("engine", ENGINES), ("precision", PRECISIONS)):
            if getattr(self, name) not in known:
                raise InputError(
                    f"{name} must be one of {', '.join(known)}, received {getattr(self, name)!r}"
                )

    def resolved(self) -> "Computing":
        """The same without "auto", for this machine."""
        engine, precision = self.engine, self.precision
        if engine == "auto":
            fit = importlib.util.find_spec("openvino") and not may_have_gpu()
            engine = "openvino" if fit else "tensorflow"
        if precision == "auto":
            fit = engine == "openvino" and cpu_multiplies_bfloat16()
            precision = "bfloat16" if fit else "float32"
        return Computing(engine, precision)


def load_engine(file: Path, computing: Computing | None = None):
    """`strokeseg_tf.prediction.network.Engine` of a `.keras` file.

    Raises:
        InputError: The file cannot be loaded, or what was asked for is not installed.
    """
    wanted = computing or Computing()
    chosen = wanted.resolved()
    if chosen.engine == "tensorflow":
        return _on_tensorflow(file, chosen.precision)
    if not importlib.util.find_spec("openvino"):
        raise InputError(
            "OpenVINO is not installed; pip install 'strokeseg-tf[openvino]', or use "
            "--engine tensorflow"
        )
    from strokeseg_tf.prediction.openvino_engine import OpenVinoEngine

    try:
        return OpenVinoEngine(file, chosen.precision)
    except (InputError, ImportError) as error:
        if wanted.engine != "auto":
            raise InputError(str(error)) from error
        # A damaged file fails here as well, and says so.
        engine = _on_tensorflow(
            file, Computing("tensorflow", wanted.precision).resolved().precision
        )
        remark(f"OpenVINO cannot compute {file} ({error}): TensorFlow does")
        return engine


def _on_tensorflow(file: Path, precision: str):
    from strokeseg_tf.prediction.keras_engine import KerasEngine
    from strokeseg_tf.runs import load_network
    from strokeseg_tf.serving.inference import inference_network

    network = inference_network(load_network(file), precision)
    return KerasEngine(network, frozen=network.count_params() <= FROZEN_WEIGHTS)
