"""A model on a server that predicts studies as one on this machine does."""

import functools
import json
import re
import time

import numpy as np

from strokeseg_tf.console import remark
from strokeseg_tf.prediction import check_modalities
from strokeseg_tf.preprocessing import preprocess, restore, volume_range
from strokeseg_tf.serving.connection import TOKEN_VARIABLE, Connection
from strokeseg_tf.serving.endpoint import Endpoint
from strokeseg_tf.serving.protocol import Kind, Refusal
from strokeseg_tf.serving.servers import Servers
from tfrecord_tools.errors import InputError

#: Seconds for the first contact: a mistyped host is not worth the patience of a study.
CONTACT_S = 10.0


def connect(endpoint: Endpoint, connection: Connection) -> Servers:
    """The servers of an endpoint; nothing is sent yet."""
    if endpoint.protocol == "grpc":
        from strokeseg_tf.serving.grpc_client import GrpcServer as Server
    else:
        from strokeseg_tf.serving.rest_client import RestServer as Server
    if connection.token and not endpoint.secure:
        remark(f"the token of {TOKEN_VARIABLE} travels unencrypted; use {endpoint.protocol}s://")
    servers = [Server(address, endpoint, connection) for address in endpoint.servers]
    return Servers(servers, str(endpoint))


class RemotePredictor:
    """Predicts with a served model; same interface as `prediction.Predictor`.

    A study goes whole to the signature `serving_default`, as int16 where that loses nothing. One
    that is larger than a message may be is normalised and resized here, and its slices go in parts
    to `preprocessed`. All requests go to the version that answered first: one cohort, one version.

    Args:
        endpoint: Where the model is.
        threshold: Probability above which a voxel is lesion; by default what the model says.
        connection: Settings.

    Raises:
        InputError: Nobody answers, or not with a model of ours.
    """

    def __init__(self, endpoint: Endpoint, *, threshold=None, connection=None):
        self._endpoint, self._connection = endpoint, connection or Connection()
        self._servers = connect(endpoint, self._connection)
        self._model = self._contact()
        self.version = self._model.version
        self.modalities = self._model.modalities
        #: Largest request in bytes; it falls where a server takes less.
        self._limit = int(self._connection.max_message_mb * 2**20)
        self.threshold = self._read_threshold() if threshold is None else threshold

    @property
    def parallel(self) -> int:
        """Studies at a time: while a server computes one, the next is read and sent."""
        return 2 * len(self._servers)

    def predict(self, images):
        """See `strokeseg_tf.prediction.Predictor.predict`."""
        check_modalities(self.modalities, images)
        study = {m: np.asarray(images[m], np.float32) for m in self.modalities}
        for modality, volume in study.items():
            # JSON knows no NaN, and a study in parts would have lost it: the same words for all.
            if not np.isfinite(volume).all():
                raise InputError(f"{modality} has NaN or infinite voxels; repair the image")
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
        inputs = {
            m: preprocess(volume, volume_range(volume), self._model.image_size).numpy()
            for m, volume in study.items()
        }
        parts, start = [], 0
        count, height, width = next(iter(study.values())).shape
        at_once = min(count, max(1, self._limit // self._bytes_per_slice()))
        while start < count:
            try:
                part = {m: x[start : start + at_once] for m, x in inputs.items()}
                parts.append(send("preprocessed", part))
            except Refusal as refusal:
                if refusal.kind is not Kind.TOO_LARGE or at_once == 1:
                    raise
                at_once //= 2
            else:
                start += at_once
        return {
            m: restore(np.concatenate([p[m] for p in parts]), height, width).numpy()
            for m in self.modalities
        }

    def _bytes_per_slice(self):
        values = len(self.modalities) * self._model.image_size**2
        return values * self._servers.bytes_per_value

    def _send(self, signature, inputs, *, end):
        """Probabilities by modality."""
        outputs = [f"{m}_probability" for m in self.modalities]
        request = self._servers.encode(signature, inputs, outputs, self.version)
        if request.size > self._limit:
            raise Refusal(
                Kind.TOO_LARGE, f"{_megabytes(request.size)} are more than --max-message-mb admits"
            )
        try:
            _, answer = self._servers.ask(
                lambda server, left: server.predict(request, left), end - time.monotonic()
            )
        except Refusal as refusal:
            if refusal.kind is Kind.TOO_LARGE:
                # Who refused this size refuses it from the next study, too: half, and the names.
                self._limit = min(self._limit, request.size // 2 + 1024)
            raise
        return {m: answer[f"{m}_probability"] for m in self.modalities}

    def _contact(self):
        patience = min(CONTACT_S, self._connection.deadline_s)
        asked = self._endpoint.version
        try:
            _, model = self._servers.ask(lambda s, left: s.describe(asked, left), patience)
        except Refusal as refusal:
            raise self._explained(refusal) from refusal
        return model

    def _read_threshold(self):
        if "description" not in self._model.signatures:
            remark(f"{self._endpoint} does not say its threshold: 0.5 is used; --threshold sets it")
            return 0.5
        request = self._servers.encode(
            "description", {"request": ""}, ["description"], self.version
        )
        try:
            _, answer = self._servers.ask(lambda s, left: s.predict(request, left), CONTACT_S)
        except Refusal as refusal:
            raise self._explained(refusal) from refusal
        return json.loads(answer["description"].item())["threshold"]

    def _explained(self, refusal: Refusal) -> InputError:
        """What a refusal means for the user, and what to do."""
        if refusal.kind is Kind.NOT_FOUND:
            return self._not_found(refusal.server)
        text = _without_graph(refusal.text)
        if refusal.server is None:
            return InputError(f"one slice is too large for a message ({text}); raise the limit")
        host = refusal.server.address
        token = f"put its token in the environment variable {TOKEN_VARIABLE}"
        if self._connection.token:
            token = f"the token in {TOKEN_VARIABLE} is not one that it knows"
        messages = {
            Kind.TOO_LARGE: f"{host} takes no message as large as one slice ({text}); raise its "
            "limit",
            Kind.INVALID: f"{host} refused the study: {text}",
            Kind.DENIED: f"{host} refused access ({text}); {token}",
            Kind.LATE: f"{host} did not answer within {self._connection.deadline_s:g} s; raise "
            "--deadline, or see whether the server is overloaded",
            Kind.TLS: f"no secure connection to {host} ({text}); give the certificate of its "
            "authority with --ca-file, or check that the port speaks TLS",
            Kind.PROTOCOL: f"{host} does not speak {self._endpoint.protocol} ({text}); TensorFlow "
            "Serving has gRPC on port 8500 and REST on 8501",
            Kind.FOREIGN: f"{self._endpoint} is no model that strokeseg-tf export wrote: {text}; "
            "name another model",
            Kind.FAILED: f"{host} failed ({text}); see the server's log",
        }
        return InputError(messages[refusal.kind])

    def _not_found(self, server) -> InputError:
        name, version = self._endpoint.model, self._endpoint.version
        try:
            versions = server.versions(CONTACT_S)
        except Refusal as refusal:
            if refusal.kind is Kind.NOT_FOUND:
                return InputError(f"{server.address} serves no model named {name}; check the name")
            return InputError(f"{server.address} does not serve {name} any more ({refusal.text})")
        there = f"has {', '.join(map(str, versions))}" if versions else "has none ready"
        gone = version if version is not None else getattr(self, "version", None)
        if gone is None:
            return InputError(f"{server.address} has no version of {name} ready; try again later")
        return InputError(
            f"version {gone} of {name} is not at {server.address}, which {there}; name another, "
            "or none for the latest"
        )


def _fits_int16(volume) -> bool:
    return bool(
        volume.min(initial=0) >= -(2**15)
        and volume.max(initial=0) < 2**15
        and np.array_equal(volume, np.rint(volume))
    )


def _megabytes(size) -> str:
    return f"{size / 2**20:.2g} MB"


def _without_graph(text) -> str:
    """An error of the graph without the names of its nodes."""
    text = text.partition("[[{{node")[0].replace("Graph execution error:", "")
    assertion = re.search(r"assertion failed: \[(.*?)\]", text)
    return " ".join((assertion[1] if assertion else text).split())[:200]
