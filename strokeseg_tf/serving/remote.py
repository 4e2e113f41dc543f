"""A model on a server that predicts studies as one on this machine does."""

import functools
import sys
import time

import numpy as np

from strokeseg_tf.console import remark
from strokeseg_tf.prediction.inputs import check_study
from strokeseg_tf.prediction.preprocessing import preprocess, restore
from strokeseg_tf.serving.connection import TOKEN_VARIABLE, Connection
from strokeseg_tf.serving.endpoint import Endpoint
from strokeseg_tf.serving.explanation import explain
from strokeseg_tf.serving.greeting import Greeting
from strokeseg_tf.serving.protocol import Kind, Refusal
from strokeseg_tf.serving.servers import Servers
from tfrecord_tools.errors import InputError


def connect(endpoint: Endpoint, connection: Connection, greeting: Greeting) -> Servers:
    """The servers of an endpoint; nothing is sent yet."""
    if endpoint.protocol == "grpc":
        from strokeseg_tf.serving.grpc_client import GrpcServer as Server
    else:
        from strokeseg_tf.serving.rest_client import RestServer as Server
    if connection.token and not endpoint.secure:
        remark(f"the token of {TOKEN_VARIABLE} travels unencrypted; use {endpoint.protocol}s://")
    servers = [Server(address, endpoint, connection) for address in endpoint.servers]
    return Servers(servers, str(endpoint), greeting, connection.contact_s)


class RemotePredictor:
    """Predicts with a served model; same interface as `prediction.network.NetworkPredictor`.

    A study goes whole to the signature `serving_default`, as int16 where that loses nothing. One
    that is larger than a message may be is normalised and resized here, and its slices go in parts
    to `preprocessed`. All requests go to the version that answered first: one cohort, one version.
    `close` it, or use it in a `with` block: its connections end there.

    Args:
        endpoint: Where the model is.
        threshold: Probability above which a voxel is lesion; by default what the model says.
        connection: Settings.

    Raises:
        InputError: Nobody answers, or not with a model of ours, or servers have different models.
    """

    #: See `strokeseg_tf.prediction.network.NetworkPredictor`.
    computed_by = "a server"

    def __init__(self, endpoint: Endpoint, *, threshold=None, connection=None):
        self._endpoint, self._connection = endpoint, connection or Connection()
        greeting = Greeting(endpoint.model, endpoint.version)
        self._servers = connect(endpoint, self._connection, greeting)
        try:
            self._servers.meet()
        except Refusal as refusal:
            raise explain(refusal, endpoint, self._connection, greeting.version) from refusal
        self._model = greeting.model
        self.version, self.modalities = self._model.version, self._model.modalities
        self.training_data = self._model.training_data
        # What may be sent, in bytes and in slices of `preprocessed`; they fall where a server
        # takes less, so that the next study is not refused again.
        self._limit = int(self._connection.max_message_mb * 2**20)
        self._at_once = sys.maxsize
        self.threshold = self._model.threshold if threshold is None else threshold
        if self.threshold is None:
            remark(f"{endpoint} does not say its threshold: 0.5 is used; --threshold sets it")
            self.threshold = 0.5

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def close(self) -> None:
        """End the connections."""
        self._servers.close()

    @property
    def parallel(self) -> int:
        """Studies at a time: while a server computes one, the next is read and sent."""
        return 2 * len(self._servers)

    def predict(self, images):
        """See `strokeseg_tf.prediction.network.NetworkPredictor.predict`."""
        # Here and not on the server: a study in parts no longer shows it, and JSON knows no NaN.
        study = check_study(self.modalities, images)
        end = time.monotonic() + self._connection.deadline_s
        with_server = functools.partial(self._send, end=end)
        try:
            return self._predict_whole(study, with_server)
        except Refusal as refusal:
            if refusal.kind is not Kind.TOO_LARGE:
                raise self._explained(refusal) from refusal
        try:
            return self._predict_in_parts(study, with_server)
        except Refusal as refusal:
            raise self._explained(refusal) from refusal

    def _predict_whole(self, study, send):
        signature = "serving_default"
        if "serving_int16" in self._model.signatures and all(map(_fits_int16, study.values())):
            signature, study = "serving_int16", {m: x.astype(np.int16) for m, x in study.items()}
        return send(signature, study)

    def _predict_in_parts(self, study, send):
        """A study as slices of the network's size, as many at once as the limit admits."""
        if self._model.image_size is None:
            raise InputError(
                f"the study is larger than a message may be, and {self._endpoint} cannot take it "
                "in parts; export the model again, or raise --max-message-mb and the server's limit"
            )
        inputs = {m: preprocess(volume, self._model.image_size) for m, volume in study.items()}
        parts, start = [], 0
        count, height, width = next(iter(study.values())).shape
        at_once = min(count, self._at_once, max(1, self._limit // self._bytes_per_slice()))
        while start < count:
            try:
                part = {m: x[start : start + at_once] for m, x in inputs.items()}
                parts.append(send("preprocessed", part))
            except Refusal as refusal:
                if refusal.kind is not Kind.TOO_LARGE or at_once == 1:
                    raise
                at_once //= 2
                self._at_once = min(self._at_once, at_once)
            else:
                start += at_once
        return {
            m: restore(np.concatenate([p[m] for p in parts]), height, width)
            for m in self.modalities
        }

    def _bytes_per_slice(self):
        values = len(self.modalities) * self._model.image_size**2
        return values * self._servers.bytes_per_value

    def _send(self, signature, inputs, *, end):
        """Probabilities by modality."""
        outputs = [f"{m}_probability" for m in self.modalities]
        # No encoding is shorter than the voxels: what is far too large need not be encoded.
        self._check_size(sum(x.nbytes for x in inputs.values()))
        request = self._servers.encode(signature, inputs, outputs, self.version)
        self._check_size(request.size)
        try:
            return self._servers.ask(
                lambda server, left: _probabilities(server.predict(request, left), inputs),
                end - time.monotonic(),
            )
        except Refusal as refusal:
            if refusal.kind is Kind.TOO_LARGE:
                self._limit = min(self._limit, request.size - 1)
            raise

    def _check_size(self, size):
        if size > self._limit:
            text = "--max-message-mb admits; raise it"
            if self._limit < int(self._connection.max_message_mb * 2**20):
                text = "a server took; raise its limit"
            raise Refusal(Kind.TOO_LARGE, f"it has {size / 2**20:.2g} MB, more than {text}")

    def _explained(self, refusal):
        return explain(refusal, self._endpoint, self._connection, self.version)


def _probabilities(answer, inputs) -> dict[str, np.ndarray]:
    """Probabilities by modality, of the shapes of what was sent.

    Raises:
        Refusal: They are of other shapes, or no probabilities.
    """
    probabilities = {m: answer[f"{m}_probability"] for m in inputs}
    for m, probability in probabilities.items():
        if probability.shape != inputs[m].shape:
            raise Refusal(
                Kind.FAILED,
                f"it gave {m}_probability of the shape {probability.shape} for {m} of the shape "
                f"{inputs[m].shape}",
            )
        if not (probability.min() >= 0 and probability.max() <= 1):
            raise Refusal(Kind.FAILED, f"its {m}_probability has values outside of 0 to 1")
    return probabilities


def _fits_int16(volume) -> bool:
    return bool(
        volume.min(initial=0) >= -(2**15)
        and volume.max(initial=0) < 2**15
        and np.array_equal(volume, np.rint(volume))
    )
