"""A thin stand-in for TensorFlow Serving over real SavedModels, for tests and benchmarks.

The server's binary comes as a container image; this speaks its two protocols in Python: gRPC
(`PredictionService`: Predict and GetModelMetadata; `ModelService`: GetModelStatus) and the REST
API. As there, a model is a folder of versions, run through a TensorFlow session with the tensor
names of its signatures; codes, messages and shapes of answers follow TensorFlow Serving's sources.
What it lacks: Classify, Regress, batching, reloading.

`python tests/tf_serving.py strokeseg=FOLDER` serves until Ctrl-C.
"""

import argparse
import collections
import contextlib
import dataclasses
import inspect
import json
import re
import socket
import ssl
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import grpc
import numpy as np
import orjson
import tensorflow as tf
from google.protobuf import json_format
from google.protobuf.internal.encoder import _VarintBytes
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

from strokeseg_tf.serving import messages
from strokeseg_tf.serving.layout import WARMUP

#: HTTP status of a gRPC code, where it is not 500.
HTTP_STATUS = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}
#: What protobuf calls the option that writes fields of the default value; 5 gave it another name.
WITH_DEFAULTS = next(
    name
    for name in ("always_print_fields_with_no_presence", "including_default_value_fields")
    if name in inspect.signature(json_format.MessageToDict).parameters
)
CODES = {code.value[0]: code for code in grpc.StatusCode}

PREDICT = re.compile(r"/v1/models/([^/:]+)(?:/versions/(\d+))?:predict")
STATUS = re.compile(r"/v1/models/([^/:]+)(?:/versions/(\d+))?(/metadata)?")


class Refused(Exception):
    """An answer that is an error: a gRPC code and a message."""

    def __init__(self, code: grpc.StatusCode, message: str):
        super().__init__(message)
        self.code, self.message = code, message


def invalid(message):
    """The commonest refusal."""
    return Refused(grpc.StatusCode.INVALID_ARGUMENT, message)


@dataclasses.dataclass(frozen=True)
class Servable:
    """One version of a model in a session of its own."""

    name: str
    version: int
    signatures: dict
    session: tf.compat.v1.Session

    @classmethod
    def load(cls, name, folder: Path):
        """Load a version's folder; its name is the version."""
        session = tf.compat.v1.Session(graph=tf.Graph())
        with session.graph.as_default():
            graph = tf.compat.v1.saved_model.load(session, ["serve"], str(folder))
        servable = cls(name, int(folder.name), dict(graph.signature_def), session)
        servable._warm_up(folder / WARMUP)
        return servable

    def _warm_up(self, path: Path):
        """Answer the requests that the version brings, as the real server does on loading."""
        for record in tf.data.TFRecordDataset(str(path)) if path.is_file() else ():
            request = PredictionLog.FromString(record.numpy()).predict_log.request
            tensors = {name: tf.make_ndarray(value) for name, value in request.inputs.items()}
            self.run(request.model_spec.signature_name, tensors)

    def inputs(self, signature) -> dict:
        """`TensorInfo` of a signature's inputs."""
        if signature not in self.signatures:
            raise Refused(
                grpc.StatusCode.FAILED_PRECONDITION,
                f'Serving signature key "{signature}" not found.',
            )
        return self.signatures[signature].inputs

    def run(self, signature, tensors, wanted=()) -> dict:
        """Outputs by name, numpy arrays."""
        expected = self.inputs(signature)
        if set(tensors) != set(expected):
            extra, missing = set(tensors) - set(expected), set(expected) - set(tensors)
            raise invalid(
                f"input size does not match signature: {len(tensors)}!={len(expected)} "
                f"len({{{','.join(sorted(tensors))}}}) != len({{{','.join(sorted(expected))}}}). "
                f"Sent extra: {{{','.join(sorted(extra))}}}. "
                f"Missing but required: {{{','.join(sorted(missing))}}}."
            )
        outputs = self.signatures[signature].outputs
        names = sorted(wanted or outputs)
        feed = {}
        for name, tensor in tensors.items():
            if tf.as_dtype(tensor.dtype) != tf.as_dtype(expected[name].dtype):
                raise invalid(
                    f"Expects arg[0] to be {tf.as_dtype(expected[name].dtype).name} but "
                    f"{tf.as_dtype(tensor.dtype).name} is provided"
                )
            feed[expected[name].name] = tensor
        try:
            values = self.session.run([outputs[name].name for name in names], feed)
        except tf.errors.OpError as error:
            raise Refused(CODES[error.error_code], error.message) from error
        except ValueError as error:  # A shape that the signature excludes.
            raise invalid(str(error)) from error
        # A string scalar comes as bytes, which numpy would give a type of its own.
        arrays = [np.asarray(v, object if isinstance(v, bytes) else None) for v in values]
        return dict(zip(names, arrays, strict=True))


class Models:
    """The served models: the highest version of each, or all."""

    def __init__(self, folders, all_versions=False):
        self._servables = {}
        for name, folder in folders.items():
            versions = sorted(int(p.name) for p in Path(folder).iterdir() if p.name.isdigit())
            self._servables[name] = {
                v: Servable.load(name, Path(folder) / str(v))
                for v in (versions if all_versions else versions[-1:])
            }

    def find(self, name, version=None) -> Servable:
        """The servable of a request."""
        versions = self._servables.get(name, {})
        if version is None and versions:
            return versions[max(versions)]
        if version not in versions:
            asked = f"Latest({name})" if version is None else f"Specific({name}, {version})"
            raise Refused(grpc.StatusCode.NOT_FOUND, f"Servable not found for request: {asked}")
        return versions[version]

    def metadata(self, name, version=None):
        """`GetModelMetadataResponse`."""
        servable = self.find(name, version)
        response = messages.GetModelMetadataResponse()
        response.model_spec.name = name
        response.model_spec.version.value = servable.version
        signatures = messages.SignatureDefMap(signature_def=servable.signatures)
        response.metadata["signature_def"].Pack(signatures)
        return response

    def status(self, name, version=None):
        """`GetModelStatusResponse`."""
        versions = self._servables.get(name, {})
        if version is None and not versions:
            message = f"Could not find any versions of model {name}"
            raise Refused(grpc.StatusCode.NOT_FOUND, message)
        if version is not None and version not in versions:
            message = f"Could not find version {version} of model {name}"
            raise Refused(grpc.StatusCode.NOT_FOUND, message)
        response = messages.GetModelStatusResponse()
        for number in [version] if version is not None else sorted(versions, reverse=True):
            response.model_version_status.add(
                version=number, state=messages.ModelVersionStatus.AVAILABLE
            ).status.SetInParent()
        return response


def to_proto(array):
    """A tensor as TensorFlow Serving answers it: float32 in `float_val`, not as raw bytes."""
    if array.dtype != np.float32:
        return tf.make_tensor_proto(array)
    proto = tensor_pb2.TensorProto(dtype=tf.float32.as_datatype_enum)
    for size in array.shape:
        proto.tensor_shape.dim.add(size=size)
    values = array.tobytes()
    # Field 5, packed: the same bytes as from float_val.extend, without a Python float each.
    proto.MergeFromString(b"\x2a" + _VarintBytes(len(values)) + values)
    return proto


def _version(spec: messages.ModelSpec):
    return spec.version.value if spec.HasField("version") else None


def _answering(method):
    """A servicer's method whose `Refused` becomes the call's status."""

    def answer(self, request, context):
        try:
            return method(self, request)
        except Refused as refusal:
            context.abort(refusal.code, refusal.message)

    return answer


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    """gRPC `PredictionService`."""

    def __init__(self, models, gate):
        self._models, self._gate = models, gate

    @_answering
    def Predict(self, request):
        time.sleep(self._gate.delay_s)
        spec = request.model_spec
        servable = self._models.find(spec.name, _version(spec))
        signature = spec.signature_name or "serving_default"
        tensors = {name: tf.make_ndarray(value) for name, value in request.inputs.items()}
        response = messages.PredictResponse()
        for name, value in servable.run(signature, tensors, request.output_filter).items():
            response.outputs[name].CopyFrom(to_proto(value))
        response.model_spec.name = spec.name
        response.model_spec.signature_name = signature
        response.model_spec.version.value = servable.version
        return response

    @_answering
    def GetModelMetadata(self, request):
        return self._models.metadata(request.model_spec.name, _version(request.model_spec))


class ModelService(model_service_pb2_grpc.ModelServiceServicer):
    """gRPC `ModelService`."""

    def __init__(self, models):
        self._models = models

    @_answering
    def GetModelStatus(self, request):
        return self._models.status(request.model_spec.name, _version(request.model_spec))


def answer_rest(models, method, path, body) -> bytes:
    """The REST API: a request's JSON -> the answer's."""
    if method == "POST" and (match := PREDICT.fullmatch(path)):
        name, version = match.groups()
        return _predict_rest(models.find(name, version and int(version)), body)
    if method == "GET" and (match := STATUS.fullmatch(path)):
        name, version, metadata = match.groups()
        version = version and int(version)
        message = (models.metadata if metadata else models.status)(name, version)
        content = json_format.MessageToDict(
            message, preserving_proto_field_name=True, **{WITH_DEFAULTS: True}
        )
        if metadata:
            del content["metadata"]["signature_def"]["@type"]
        return json.dumps(content, indent=1).encode()
    raise invalid(f"Malformed request: {method} {path}")


def _predict_rest(servable, body) -> bytes:
    try:
        request = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise invalid(f"JSON Parse error: {error}") from error
    signature = request.get("signature_name", "serving_default")
    if signature not in servable.signatures:
        raise invalid(f'Serving signature name: "{signature}" not found in signature def')
    infos = servable.inputs(signature)
    if ("instances" in request) == ("inputs" in request):
        raise invalid("Missing 'inputs' or 'instances' key")
    by_row = "instances" in request
    columns = _columns_of_rows(request, infos) if by_row else request["inputs"]
    if not isinstance(columns, dict):
        columns = {next(iter(infos)): columns}
    tensors = {}
    for name, info in infos.items():
        if name not in columns:
            raise invalid(f"Missing named input: {name} in 'inputs' object.")
        tensors[name] = _to_array(columns[name], tf.as_dtype(info.dtype))
    outputs = {n: _to_json(value) for n, value in servable.run(signature, tensors).items()}
    return _rows_as_json(outputs) if by_row else _columns_as_json(outputs)


def _columns_of_rows(request, infos) -> dict:
    rows = request["instances"]
    if not isinstance(rows, list) or not rows:
        raise invalid("No values in 'instances' array")
    if not isinstance(rows[0], dict):
        if len(infos) > 1:
            raise invalid("instances is a plain list, but expecting list of objects")
        return {next(iter(infos)): rows}
    for number, row in enumerate(rows):
        if set(row) != set(infos):
            names = ",".join(sorted(infos))
            raise invalid(
                f"Failed to process element: {number} of 'instances' list. "
                f"keys must be equal to: {names}"
            )
    return {name: [row[name] for row in rows] for name in infos}


def _to_array(values, dtype):
    if dtype == tf.string:
        return np.asarray(values, object)
    try:
        array = np.asarray(values)
        if array.dtype.kind not in ("iu" if dtype.is_integer else "iuf"):
            raise ValueError("another type")
    except ValueError as error:
        raise invalid(f"JSON Value is not of expected type: {dtype.name}, or ragged") from error
    return array.astype(dtype.as_numpy_dtype)


def _to_json(array):
    if array.dtype == object:
        return np.vectorize(lambda b: b.decode(), otypes=[object])(array).tolist()
    return np.ascontiguousarray(array)


def _rows_as_json(outputs) -> bytes:
    if len(outputs) == 1:
        rows = list(*outputs.values())
    else:
        rows = [dict(zip(outputs, row, strict=True)) for row in zip(*outputs.values(), strict=True)]
    return orjson.dumps({"predictions": rows}, option=orjson.OPT_SERIALIZE_NUMPY)


def _columns_as_json(outputs) -> bytes:
    # The real server, too, writes each number of a column on a line of its own.
    content = next(iter(outputs.values())) if len(outputs) == 1 else outputs
    options = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_INDENT_2
    return orjson.dumps({"outputs": content}, option=options)


@dataclasses.dataclass(frozen=True)
class Certificate:
    """Files of a TLS certificate and its key."""

    certificate: Path
    key: Path


def make_certificate(folder: Path) -> Certificate:
    """A self-signed certificate for localhost and 127.0.0.1."""
    import datetime
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now().astimezone()
    hosts = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(hosts), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    files = Certificate(folder / "certificate.pem", folder / "key.pem")
    files.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    files.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return files


@dataclasses.dataclass
class Gate:
    """What stands before the models: a token, and times of being unavailable.

    Attributes:
        token: What `authorization: Bearer` must carry, or None.
        unavailable: How many more requests are answered with UNAVAILABLE.
        delay_s: How long each prediction takes besides.
        requests: How often each path or method was asked for, refused ones too.
    """

    token: str | None = None
    unavailable: int = 0
    delay_s: float = 0.0
    requests: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    _lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)

    def check(self, asked, authorization):
        """Let a request pass.

        Raises:
            Refused: It does not.
        """
        with self._lock:
            self.requests[asked] += 1
            if self.unavailable > 0:
                self.unavailable -= 1
                raise Refused(grpc.StatusCode.UNAVAILABLE, "the server is being restarted")
        if self.token and authorization is None:
            raise Refused(grpc.StatusCode.UNAUTHENTICATED, "no token")
        if self.token and authorization != f"Bearer {self.token}":
            raise Refused(grpc.StatusCode.PERMISSION_DENIED, "wrong token")


class GateInterceptor(grpc.ServerInterceptor):
    """The gate before gRPC."""

    def __init__(self, gate):
        self._gate = gate

    def intercept_service(self, continuation, details):
        authorization = dict(details.invocation_metadata).get("authorization")
        try:
            self._gate.check(details.method.rpartition("/")[2], authorization)
        except Refused as refusal:
            code, message = refusal.code, refusal.message
            return grpc.unary_unary_rpc_method_handler(
                lambda request, context: context.abort(code, message)
            )
        return continuation(details)


class RestHandler(BaseHTTPRequestHandler):
    """The REST API over HTTP/1.1; `models`, `gate` and `max_bytes` come with a subclass."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self):
        self._answer(b"")

    def do_POST(self):
        length = int(self.headers["Content-Length"])
        if self.max_bytes and length > self.max_bytes:  # As a proxy before the server does.
            self.gate.requests[self.path] += 1
            self.close_connection = True
            self._send(413, b"<html>413 Request Entity Too Large</html>", "text/html")
            self._drain(length)
            return
        self._answer(self.rfile.read(length))

    def _drain(self, length):
        """Read what the client still sends: closing at once could take its answer away."""
        while length > 0 and (chunk := self.rfile.read(min(length, 1 << 20))):
            length -= len(chunk)

    def _answer(self, body):
        try:
            self.gate.check(self.path, self.headers.get("Authorization"))
            time.sleep(self.gate.delay_s if self.command == "POST" else 0)
            self._send(200, answer_rest(self.models, self.command, self.path, body))
        except Refused as refusal:
            content = json.dumps({"error": refusal.message}).encode()
            self._send(HTTP_STATUS.get(refusal.code, 500), content)

    def _send(self, status, content, kind="application/json"):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments):
        pass


class RestListener(ThreadingHTTPServer):
    """A thread for each connection; a client that goes or fails the handshake is no news."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self._open = set()

    def process_request(self, request, client_address):
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request):
        self._open.discard(request)
        super().shutdown_request(request)

    def drop_connections(self):
        """End what keeps open, as the end of the process would."""
        for connection in tuple(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], ConnectionError | ssl.SSLError):
            super().handle_error(request, client_address)


class ModelServer:
    """A running server: gRPC on `grpc_port`, REST on `rest_port`, both on 127.0.0.1.

    Args:
        models: `Models`, or folders of versions by the model's name.
        certificate: Speaks TLS with it.
        token: What requests must bring.
        max_bytes: Largest request that is taken.
        unavailable: How many requests are answered with UNAVAILABLE at first.
        grpc_port: 0 for a free one.
        rest_port: 0 for a free one.
    """

    def __init__(
        self,
        models,
        *,
        certificate: Certificate | None = None,
        token=None,
        max_bytes=None,
        unavailable=0,
        grpc_port=0,
        rest_port=0,
    ):
        models = models if isinstance(models, Models) else Models(models)
        self.gate = Gate(token, unavailable)
        self._start_grpc(models, certificate, max_bytes, grpc_port)
        self._start_rest(models, certificate, max_bytes, rest_port)

    def _start_grpc(self, models, certificate, max_bytes, port):
        self._grpc = grpc.server(
            ThreadPoolExecutor(max_workers=8),
            interceptors=[GateInterceptor(self.gate)],
            options=[
                ("grpc.max_receive_message_length", max_bytes or -1),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", 0),
            ],
        )
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
            PredictionService(models, self.gate), self._grpc
        )
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(ModelService(models), self._grpc)
        if certificate:
            pair = certificate.key.read_bytes(), certificate.certificate.read_bytes()
            credentials = grpc.ssl_server_credentials([pair])
            self.grpc_port = self._grpc.add_secure_port(f"127.0.0.1:{port}", credentials)
        else:
            self.grpc_port = self._grpc.add_insecure_port(f"127.0.0.1:{port}")
        self._grpc.start()

    def _start_rest(self, models, certificate, max_bytes, port):
        attributes = {"models": models, "gate": self.gate, "max_bytes": max_bytes}
        handler = type("Handler", (RestHandler,), attributes)
        self._rest = RestListener(("127.0.0.1", port), handler)
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate.certificate, certificate.key)
            # The handshake is the connection's own thread's business, not the listener's.
            self._rest.socket = context.wrap_socket(
                self._rest.socket, server_side=True, do_handshake_on_connect=False
            )
        self.rest_port = self._rest.server_address[1]
        # The listener looks every 20 ms whether it is to stop.
        threading.Thread(target=self._rest.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self):
        """Stop both, dropping requests in flight."""
        self._grpc.stop(0).wait()
        self._rest.shutdown()
        self._rest.server_close()
        self._rest.drop_connections()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.stop()


def main():
    """Serve until Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", metavar="NAME=FOLDER", nargs="+", help="folders of versions")
    parser.add_argument("--grpc-port", type=int, default=8500)
    parser.add_argument("--rest-port", type=int, default=8501)
    parser.add_argument("--all-versions", action="store_true", help="not the highest alone")
    arguments = parser.parse_args()
    folders = dict(model.split("=", 1) for model in arguments.models)
    models = Models(folders, arguments.all_versions)
    with ModelServer(
        models, grpc_port=arguments.grpc_port, rest_port=arguments.rest_port
    ) as server:
        print(f"gRPC on {server.grpc_port}, REST on {server.rest_port}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()


if __name__ == "__main__":
    main()
