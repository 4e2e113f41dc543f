"""A TensorFlow Serving server over gRPC."""

import math
import re

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis.model_service_pb2_grpc import ModelServiceStub
from tensorflow_serving.apis.prediction_service_pb2_grpc import PredictionServiceStub

from strokeseg_tf.serving import messages
from strokeseg_tf.serving.connection import Connection
from strokeseg_tf.serving.endpoint import Endpoint
from strokeseg_tf.serving.protocol import Kind, Refusal, Request, ServedModel

_OPTIONS = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # A server that comes back is found soon; retries and their patience are ours. The smallest
    # backoff is also how long gRPC tries to connect.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 5000),
    ("grpc.max_reconnect_backoff_ms", 2000),
    ("grpc.use_local_subchannel_pool", 1),
    # Studies go straight to the server, not where http_proxy or https_proxy happen to point.
    ("grpc.enable_http_proxy", 0),
]
_KINDS = {
    grpc.StatusCode.UNAVAILABLE: Kind.UNAVAILABLE,
    grpc.StatusCode.NOT_FOUND: Kind.NOT_FOUND,
    grpc.StatusCode.INVALID_ARGUMENT: Kind.INVALID,
    grpc.StatusCode.FAILED_PRECONDITION: Kind.INVALID,
    grpc.StatusCode.UNAUTHENTICATED: Kind.DENIED,
    grpc.StatusCode.PERMISSION_DENIED: Kind.DENIED,
    grpc.StatusCode.DEADLINE_EXCEEDED: Kind.LATE,
}


class GrpcServer:
    """One server of an endpoint.

    Args:
        address: `host:port`.
        endpoint: The endpoint.
        connection: Settings.
    """

    #: Bytes of a float32 in a request.
    bytes_per_value = 4

    def __init__(self, address: str, endpoint: Endpoint, connection: Connection):
        self.address = address
        self._spec = {"name": endpoint.model}
        self._metadata = tuple(connection.authorization.items())
        if endpoint.secure:
            credentials = grpc.ssl_channel_credentials(connection.authorities())
            self._channel = grpc.secure_channel(address, credentials, _OPTIONS)
        else:
            self._channel = grpc.insecure_channel(address, _OPTIONS)
        self._prediction = PredictionServiceStub(self._channel)
        # As the stub's own method, but a request is written once: to know its size, and to send it.
        self._predict = self._channel.unary_unary(
            "/tensorflow.serving.PredictionService/Predict",
            response_deserializer=messages.PredictResponse.FromString,
        )
        self._model = ModelServiceStub(self._channel)

    def _model_spec(self, version, signature=""):
        spec = messages.ModelSpec(signature_name=signature, **self._spec)
        if version is not None:
            spec.version.value = version
        return spec

    def encode(self, signature, inputs, outputs, version) -> Request:
        """A request for `predict`.

        Args:
            signature: Name of the signature.
            inputs: Array, or scalar, by name.
            outputs: Names of the tensors to answer with.
            version: Version of the model.
        """
        request = messages.PredictRequest(
            model_spec=self._model_spec(version, signature),
            inputs={name: tf.make_tensor_proto(value) for name, value in inputs.items()},
            output_filter=outputs,
        )
        content = request.SerializeToString()
        return Request(content, len(content), tuple(outputs))

    def predict(self, request: Request, timeout_s):
        """Arrays by name of the output.

        Raises:
            Refusal: There is no result.
        """
        answer = self._call(self._predict, request.content, timeout_s)
        missing = set(request.outputs) - set(answer.outputs)
        if missing:
            raise Refusal(Kind.FAILED, f"the answer lacks {', '.join(sorted(missing))}")
        return {name: _to_array(answer.outputs[name]) for name in request.outputs}

    def describe(self, version, timeout_s) -> ServedModel:
        """What the server says of the model."""
        request = messages.GetModelMetadataRequest(
            model_spec=self._model_spec(version), metadata_field=["signature_def"]
        )
        answer = self._call(self._prediction.GetModelMetadata, request, timeout_s)
        signatures = messages.SignatureDefMap()
        answer.metadata["signature_def"].Unpack(signatures)
        return ServedModel.from_signatures(
            answer.model_spec.version.value, signatures.signature_def
        )

    def versions(self, timeout_s) -> list[int]:
        """The versions of the model that can be asked."""
        request = messages.GetModelStatusRequest(model_spec=self._model_spec(None))
        answer = self._call(self._model.GetModelStatus, request, timeout_s)
        available = messages.ModelVersionStatus.AVAILABLE
        return sorted(s.version for s in answer.model_version_status if s.state == available)

    def close(self) -> None:
        """End the connection."""
        self._channel.close()

    def _call(self, method, request, timeout_s):
        try:
            return method(request, timeout=timeout_s, metadata=self._metadata)
        except grpc.RpcError as error:
            raise Refusal(*_reading_of(error.code(), error.details() or "")) from error


def _reading_of(code, details) -> tuple[Kind, str]:
    # "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:8500: WHY"
    why = re.sub(r".*last error: (?:[A-Z_]+: )?(?:(?:ipv[46]|dns|unix):\S+: )?", "", details)
    return _kind_of(code, details), why if why != details else f"{code.name}: {details}"


def _kind_of(code, details) -> Kind:
    # grpc, or a proxy by its HTTP status, refuses the size; or the server's memory does.
    if "larger than max" in details or "status: 413" in details or "OOM" in details:
        return Kind.TOO_LARGE
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return Kind.UNAVAILABLE
    if code is grpc.StatusCode.UNAVAILABLE and "handshake" in details:
        return Kind.TLS
    if code is grpc.StatusCode.UNAVAILABLE and "HTTP/2" in details:
        return Kind.PROTOCOL
    return _KINDS.get(code, Kind.FAILED)


def _to_array(proto):
    content = proto.SerializeToString()
    size = len(proto.float_val)
    if size > 1:
        # TensorFlow Serving answers in repeated floats. Packed, they are the end of the message:
        # read there, they take a quarter of the time that TensorFlow needs for them.
        values = np.frombuffer(content, "<f4", size, len(content) - 4 * size)
        shape = [dim.size for dim in proto.tensor_shape.dim]
        ends = proto.float_val[0], proto.float_val[size - 1]
        if math.prod(shape) == size and ends == (values[0], values[-1]):
            return values.reshape(shape).copy()  # That of the message cannot be written.
    return np.asarray(tf.io.parse_tensor(content, tf.as_dtype(proto.dtype)).numpy())
