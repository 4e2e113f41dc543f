"""Requests that TensorFlow Serving sends to a model when it loads it.

The first run of a graph is slow: it is optimised, and kernels are set up. With these requests the
server has that behind it before it calls a version available. It reads them from the file
`assets.extra/tf_serving_warmup_requests`, a TFRecord of at most 1000 `PredictionLog`; the version
they lie in answers them, whatever model they name.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

import tensorflow as tf
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

from strokeseg_tf.serving.layout import WARMUP
from strokeseg_tf.serving.signature import CHUNK

#: Height and width of the studies: what most scanners give.
MATRIX = 256


def write_warmup(folder: Path, signatures: Mapping) -> None:
    """Write the requests of a version.

    Args:
        folder: The version's folder.
        signatures: Concrete functions by name of the signature.
    """
    with tf.io.TFRecordWriter(str(folder / WARMUP)) as writer:
        for log in warmup_logs(signatures):
            writer.write(log.SerializeToString())


def warmup_logs(signatures: Mapping) -> Iterable[PredictionLog]:
    """A request for each signature; constant tensors, stored as one value.

    The first one to go through the network has as many slices as go through it at once in a
    study, so that its kernels are set up for them; one slice is enough for the other graphs.
    """
    slices = CHUNK
    for name, function in signatures.items():
        log = PredictionLog()
        request = log.predict_log.request
        request.model_spec.signature_name = name
        for spec in tf.nest.flatten(function.structured_input_signature):
            shape = [size or MATRIX for size in spec.shape]
            if shape:
                shape[0] = slices
            value = "warm-up" if spec.dtype == tf.string else 1
            tensor = tf.make_tensor_proto(value, spec.dtype, shape)
            request.inputs[spec.name].CopyFrom(tensor)
        if len(next(iter(request.inputs.values())).tensor_shape.dim):
            slices = 1
        yield log
