"""A TensorFlow Serving server over its REST API."""

import contextlib
import re
import socket
import threading
import time
from http.client import BadStatusLine, RemoteDisconnected

import numpy as np
import orjson
import urllib3
from google.protobuf import json_format

from strokeseg_tf.serving import messages
from strokeseg_tf.serving.connection import Connection
from strokeseg_tf.serving.endpoint import Endpoint
from strokeseg_tf.serving.protocol import Kind, Refusal, Request, ServedModel

#: Seconds in which a server takes a connection, if at all.
CONNECT_S = 5.0

_KINDS = {
    400: Kind.INVALID,
    401: Kind.DENIED,
    403: Kind.DENIED,
    404: Kind.NOT_FOUND,
    413: Kind.TOO_LARGE,
    429: Kind.UNAVAILABLE,
    502: Kind.UNAVAILABLE,
    503: Kind.UNAVAILABLE,
    504: Kind.LATE,
}


class _InTime:
    """A connection that is made in `CONNECT_S`, and whose answers come whole within its timeout.

    By themselves, timeouts bound each reading of a few bytes, of which an answer takes many.
    """

    def connect(self):
        whole_s, self.timeout = self.timeout, min(CONNECT_S, self.timeout)
        try:
            super().connect()
        finally:
            self.timeout = whole_s
        self.sock.settimeout(whole_s)  # For sending, which may take as long as all of it.

    def getresponse(self):
        end = threading.Timer(self.timeout, _cut, [self.sock])
        end.start()
        try:
            return super().getresponse()  # With its content.
        finally:
            end.cancel()


class _Connection(_InTime, urllib3.connection.HTTPConnection):
    pass


class _SecureConnection(_InTime, urllib3.connection.HTTPSConnection):
    pass


class RestServer:
    """One server of an endpoint; see `strokeseg_tf.serving.grpc_client.GrpcServer`."""

    #: Bytes of a float32 in a request, about: digits, comma, brackets of the innermost axis.
    bytes_per_value = 13

    def __init__(self, address: str, endpoint: Endpoint, connection: Connection):
        self.address = address
        self._path = f"{endpoint.prefix}/v1/models/{endpoint.model}"
        host, _, port = address.rpartition(":")
        settings = {"maxsize": 32, "retries": False, "headers": connection.authorization}
        if endpoint.secure:
            context = connection.tls_context()
            self._pool = urllib3.HTTPSConnectionPool(
                host, int(port), ssl_context=context, **settings
            )
            self._pool.ConnectionCls = _SecureConnection
        else:
            self._pool = urllib3.HTTPConnectionPool(host, int(port), **settings)
            self._pool.ConnectionCls = _Connection

    def _path_of(self, version):
        return self._path if version is None else f"{self._path}/versions/{version}"

    def encode(self, signature, inputs, outputs, version) -> Request:
        """A request for `predict`: a row a slice, or scalars by column.

        The server writes the numbers of a column with a line and its indentation each, those of a
        row side by side: the answer is a third as long.
        """
        content = {"signature_name": signature}
        if all(np.ndim(value) for value in inputs.values()):
            columns = [np.ascontiguousarray(value) for value in inputs.values()]
            rows = zip(*columns, strict=True)
            content["instances"] = [dict(zip(inputs, row, strict=True)) for row in rows]
        else:
            content["inputs"] = dict(inputs)
        body = orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
        return Request((self._path_of(version), body), len(body), tuple(outputs))

    def predict(self, request: Request, timeout_s):
        """Arrays by name of the output."""
        path, body = request.content
        answer = self._ask("POST", f"{path}:predict", timeout_s, body)
        with _reading():
            if "outputs" in answer:
                columns = answer["outputs"]
                if len(request.outputs) == 1:
                    columns = {request.outputs[0]: columns}
            elif len(request.outputs) == 1:
                columns = {request.outputs[0]: answer["predictions"]}
            else:
                columns = {n: [row[n] for row in answer["predictions"]] for n in request.outputs}
            return {name: _to_array(columns[name]) for name in request.outputs}

    def describe(self, version, timeout_s) -> ServedModel:
        """What the server says of the model."""
        answer = self._ask("GET", f"{self._path_of(version)}/metadata", timeout_s)
        with _reading():
            signatures = json_format.ParseDict(
                answer["metadata"]["signature_def"],
                messages.SignatureDefMap(),
                ignore_unknown_fields=True,
            )
            version = int(answer["model_spec"]["version"])
        return ServedModel.from_signatures(version, signatures.signature_def)

    def versions(self, timeout_s) -> list[int]:
        """The versions of the model that can be asked."""
        answer = self._ask("GET", self._path, timeout_s)
        with _reading():
            states = answer["model_version_status"]
            return sorted(int(s["version"]) for s in states if s["state"] == "AVAILABLE")

    def close(self) -> None:
        """End the connections."""
        self._pool.close()

    def _ask(self, method, path, timeout_s, body=None):
        end = time.monotonic() + timeout_s
        try:
            timeout = urllib3.Timeout(total=timeout_s)
            answer = self._pool.request(method, path, body=body, timeout=timeout)
        except urllib3.exceptions.HTTPError as error:
            if time.monotonic() >= end:
                raise Refusal(Kind.LATE, str(error)) from error
            raise _unanswered(error) from error
        if time.monotonic() >= end:  # It may have been cut, and nothing else would show it.
            raise Refusal(Kind.LATE, "the answer was not whole in time")
        try:
            content = orjson.loads(answer.data)
        except orjson.JSONDecodeError:
            content = None
        if answer.status != 200:
            raise _refusal(answer.status, content, path)
        if not isinstance(content, dict):
            raise Refusal(Kind.FAILED, "the answer is no JSON of TensorFlow Serving")
        return content


def _cut(connected):
    """End what another thread reads from a socket; below TLS, whose own way would wait for it."""
    with contextlib.suppress(OSError):
        socket.socket.shutdown(connected, socket.SHUT_RDWR)


@contextlib.contextmanager
def _reading():
    """An answer that lacks what TensorFlow Serving's has is a refusal."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, json_format.ParseError) as error:
        reason = "the answer is JSON, but not that of TensorFlow Serving"
        raise Refusal(Kind.FAILED, reason) from error


def _unanswered(error) -> Refusal:
    """What urllib3 says, without its objects."""
    if isinstance(error, urllib3.exceptions.SSLError):
        return Refusal(Kind.TLS, str(error))
    cause = error.args[-1] if isinstance(error, urllib3.exceptions.ProtocolError) else error
    if isinstance(cause, BadStatusLine) and not isinstance(cause, RemoteDisconnected):
        return Refusal(Kind.PROTOCOL, "its first line is none of HTTP")
    return Refusal(Kind.UNAVAILABLE, re.sub(r"HTTPS?Connection\(.*?\): ", "", str(cause)))


def _refusal(status, content, path) -> Refusal:
    text = content.get("error") if isinstance(content, dict) else None
    kind = _KINDS.get(status, Kind.FAILED)
    if text and "OOM" in text:
        kind = Kind.TOO_LARGE
    if status == 404 and text is None:
        return Refusal(Kind.FAILED, f"HTTP 404: there is no TensorFlow Serving at {path}")
    return Refusal(kind, f"HTTP {status}: {text}" if text else f"HTTP {status}")


def _to_array(values):
    return np.asarray(values) if isinstance(values, str) else np.asarray(values, np.float32)
