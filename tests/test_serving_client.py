"""The client of a served model, against real SavedModels over real gRPC and HTTP."""

import contextlib
import itertools
import json
import os
import re
import shutil
import signal
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import nibabel
import numpy as np
import orjson
import pytest
import tensorflow as tf
import urllib3
from test_serving import make_run
from tf_serving import Models, ModelServer, make_certificate

from strokeseg_tf.cli import main
from strokeseg_tf.cohort import predict_cohort
from strokeseg_tf.loading import load_predictor
from strokeseg_tf.prediction.engines import Computing
from strokeseg_tf.runs import load_network
from strokeseg_tf.serving.connection import TOKEN_VARIABLE, Connection
from strokeseg_tf.serving.endpoint import Endpoint, parse_endpoint
from strokeseg_tf.serving.export import export
from strokeseg_tf.serving.inference import inference_network
from strokeseg_tf.serving.protocol import Refusal
from strokeseg_tf.serving.signature import StudyModel
from tfrecord_tools.errors import InputError
from tfrecord_tools.layouts import find_studies
from tfrecord_tools.study_files import StudyFiles

both_protocols = pytest.mark.parametrize("protocol", ["grpc", "http"])

TOKEN = "a-token-that-nobody-prints"


class Plain(tf.Module):
    """A model with the signature `serving_default` alone, without any network."""

    @tf.function(
        input_signature=[tf.TensorSpec((None,) * 3, name=m) for m in ("adc", "dwi")],
    )
    def serve(self, adc, dwi):
        return {"adc_probability": tf.sigmoid(adc), "dwi_probability": tf.sigmoid(dwi)}


class OneModality(tf.Module):
    """The same for DWI alone."""

    @tf.function(input_signature=[tf.TensorSpec((None,) * 3, name="dwi")])
    def serve(self, dwi):
        return {"dwi_probability": tf.sigmoid(dwi)}


class Foreign(tf.Module):
    """Somebody else's model."""

    @tf.function(input_signature=[tf.TensorSpec((None,), name="x")])
    def serve(self, x):
        return {"y": x + 1}


OTHERS = {"plain": Plain(), "unimodal": OneModality(), "foreign": Foreign()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Folders of models: strokeseg, exported, with two versions, and `OTHERS`."""
    folder = tmp_path_factory.mktemp("models")
    run = make_run(folder / "run")
    run.write_threshold({"threshold": 0.45, "split": "validation", "rater": "r1"})
    run.write_training_data({"studies": 3, "features": {"slice distance (mm)": [90, 100]}})
    first = export(run.folder, folder / "strokeseg")
    shutil.copytree(first, folder / "strokeseg" / "2")
    for name, model in OTHERS.items():
        tf.saved_model.save(model, str(folder / name / "1"), signatures=model.serve)
    older = StudyModel(
        inference_network(load_network(run.model_file)),
        threshold=0.45,
        description={"threshold": 0.45},
    )
    tf.saved_model.save(older, str(folder / "older" / "1"), signatures=older.signatures())
    return folder


@pytest.fixture(scope="module")
def models(folder):
    return Models({name: folder / name for name in ("strokeseg", "older", *OTHERS)})


@pytest.fixture(scope="module")
def other_models(tmp_path_factory):
    """The model `strokeseg`, version 2, of another run."""
    folder = tmp_path_factory.mktemp("other")
    run = make_run(folder / "run", filters=[2])
    run.write_threshold({"threshold": 0.45, "split": "validation", "rater": "r1"})
    export(run.folder, folder / "strokeseg", version=2)
    return Models({"strokeseg": folder / "strokeseg"})


@pytest.fixture(scope="module")
def server(models):
    with ModelServer(models) as server:
        yield server


@pytest.fixture(scope="module")
def local(folder):
    return load_predictor(folder / "run", computing=Computing(precision="float32"))


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    return make_certificate(tmp_path_factory.mktemp("tls"))


def ports_of(protocol, *servers):
    """The port of each server for a protocol."""
    return [server.grpc_port if protocol == "grpc" else server.rest_port for server in servers]


def address(protocol, *servers, model="strokeseg", version="", tls=False):
    """The address of a model on servers, as a user types it."""
    hosts = ",".join(f"127.0.0.1:{port}" for port in ports_of(protocol, *servers))
    path = f"/{model}" if protocol == "grpc" else f"/v1/models/{model}"
    return f"{protocol}{'s' if tls else ''}://{hosts}{path}{version}"


def connect(protocol, *servers, threshold=0.5, model="strokeseg", version="", tls=False, **options):
    where = address(protocol, *servers, model=model, version=version, tls=tls)
    return load_predictor(where, threshold=threshold, connection=Connection(**options))


def predictions(server):
    """How many predictions a server was asked for."""
    return sum(n for asked, n in server.gate.requests.items() if "redict" in asked)


@contextlib.contextmanager
def stopped(models):
    """A server that has been there and is no more: its ports are free."""
    server = ModelServer(models)
    server.stop()
    yield server


def make_images(shape=(7, 40, 50), seed=0):
    rng = np.random.default_rng(seed)
    return {m: rng.uniform(0, 2000, shape).astype(np.float32) for m in ("adc", "dwi")}


def assert_same(got, wanted):
    assert got.keys() == wanted.keys()
    for modality in wanted:
        assert got[modality].shape == wanted[modality].shape
        np.testing.assert_allclose(got[modality], wanted[modality], atol=1e-5)


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("grpc://a:9000/m", Endpoint("grpc", False, ("a:9000",), "m")),
        ("grpc://a,b:1/m/versions/3", Endpoint("grpc", False, ("a:8500", "b:1"), "m", 3)),
        ("grpcs://[::1]:9/m", Endpoint("grpc", True, ("[::1]:9",), "m")),
        ("http://a:8501/v1/models/m", Endpoint("http", False, ("a:8501",), "m")),
        ("https://a/x/v1/models/m:predict", Endpoint("http", True, ("a:443",), "m", None, "/x")),
    ],
)
def test_addresses_are_understood(text, endpoint):
    assert parse_endpoint(text) == endpoint
    assert parse_endpoint(str(endpoint)) == endpoint


@pytest.mark.parametrize(
    "text",
    ["grpc://a", "grpc:///m", "http://a/m", "ftp://a/m", "http://a/v1/models/m?key=s", "grpc://[/m"]
    + ["grpc://me:s3cret@a/m", "http://a:x/v1/models/m", "grpc://a/m/versions/new"]
    + ["http://a:84037/v1/models/m", "grpc://a:0/m", "grpc://a/m/versions/9223372036854775808"],
)
def test_other_addresses_are_refused_in_one_line_without_their_secrets(text):
    with pytest.raises(InputError) as error:
        load_predictor(text)
    assert "\n" not in str(error.value) and "s3cret" not in str(error.value)


def test_json_that_is_not_of_the_server_is_one_line():
    class Other(BaseHTTPRequestHandler):
        def do_GET(self):
            content = b'{"ok": true}'
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Other) as other:
        threading.Thread(target=other.serve_forever, args=(0.02,), daemon=True).start()
        address = f"http://127.0.0.1:{other.server_address[1]}/v1/models/m"
        with pytest.raises(InputError, match="JSON, but not that of TensorFlow Serving"):
            load_predictor(address)
        other.shutdown()


def test_a_wrong_name_is_told_although_another_server_is_dead(server):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        dead = nobody.getsockname()[1]
        address = f"grpc://127.0.0.1:{dead},127.0.0.1:{server.grpc_port}/nope"
        with pytest.raises(InputError, match="serves no model named nope"):
            load_predictor(address, connection=Connection(deadline_s=1))


@both_protocols
def test_a_served_model_predicts_as_the_run_does(protocol, server, local):
    remote = connect(protocol, server, threshold=None)
    assert (remote.modalities, remote.threshold, remote.version) == (("adc", "dwi"), 0.45, 2)
    for images in (make_images(), make_images((1, 9, 70))):
        assert_same(remote.predict(images), local.predict(images))
        # int16 as scanners store it; the other modality may have fractions.
        whole = {m: np.rint(x) for m, x in images.items()}
        assert_same(remote.predict(whole), local.predict(whole))
        mixed = {"adc": images["adc"], "dwi": whole["dwi"]}
        assert_same(remote.predict(mixed), local.predict(mixed))


@both_protocols
def test_a_unimodal_model_takes_its_one_modality(protocol, server):
    remote = connect(protocol, server, model="unimodal")
    assert remote.modalities == ("dwi",)
    images = {"dwi": np.linspace(-3, 3, 3 * 4 * 5, dtype=np.float32).reshape(3, 4, 5)}
    assert_same(remote.predict(images), {"dwi": 1 / (1 + np.exp(-images["dwi"]))})
    with pytest.raises(InputError, match="no dwi"):
        remote.predict({"adc": images["dwi"]})


@both_protocols
def test_a_study_in_parts_is_predicted_as_a_whole_one(protocol, server, local):
    images = make_images((9, 60, 70))
    before = predictions(server)
    remote = connect(protocol, server, max_message_mb=0.03)
    assert_same(remote.predict(images), local.predict(images))
    assert predictions(server) - before >= 3


@both_protocols
def test_a_server_that_takes_less_gets_parts_and_is_not_tried_again(protocol, models, local):
    with ModelServer(models, max_bytes=60_000) as server:
        remote = connect(protocol, server)
        first, second = make_images((9, 60, 70)), make_images((9, 60, 70), seed=1)
        assert_same(remote.predict(first), local.predict(first))
        learning = predictions(server)
        assert_same(remote.predict(second), local.predict(second))
        assert predictions(server) - learning < learning


@both_protocols
def test_a_limit_below_one_slice_is_said(protocol, server, models):
    with pytest.raises(InputError, match="one slice"):
        connect(protocol, server, max_message_mb=0.001).predict(make_images())
    with ModelServer(models, max_bytes=4000) as small, pytest.raises(InputError, match="one slice"):
        connect(protocol, small).predict(make_images())


@both_protocols
def test_what_takes_no_parts_says_so(protocol, server):
    with pytest.raises(InputError, match="in parts"):
        connect(protocol, server, model="plain", max_message_mb=0.001).predict(make_images())


@both_protocols
def test_a_busy_server_is_asked_again(protocol, models, local):
    with ModelServer(models) as server:
        remote = connect(protocol, server)
        server.gate.unavailable = 3
        images = make_images()
        assert_same(remote.predict(images), local.predict(images))
        assert server.gate.unavailable == 0


@both_protocols
def test_a_study_survives_a_server_that_is_restarted(protocol, models, local):
    server = ModelServer(models)
    remote = connect(protocol, server, deadline_s=30)
    server.stop()
    ports = {"grpc_port": server.grpc_port, "rest_port": server.rest_port}
    again = []
    timer = threading.Timer(0.7, lambda: again.append(ModelServer(models, **ports)))
    timer.start()
    images = make_images()
    try:
        assert_same(remote.predict(images), local.predict(images))
        assert predictions(again[0]) == 2  # What it serves, then the study.
    finally:
        timer.join()
        again[0].stop()


@both_protocols
def test_requests_go_round_and_a_dead_server_is_left_out(protocol, models):
    with ModelServer(models) as one, stopped(models) as dead, ModelServer(models) as other:
        remote = connect(protocol, one, dead, other)
        assert (predictions(one), predictions(other)) == (1, 1)  # What they serve.
        for _ in range(8):
            remote.predict(make_images())
        assert min(predictions(one), predictions(other)) >= 3
        assert predictions(one) + predictions(other) == 10


@both_protocols
def test_a_cohort_does_not_wait_for_dead_servers_study_by_study(protocol, models):
    with ModelServer(models) as server:
        remote = connect(protocol, server, deadline_s=1)
    start = time.monotonic()
    with pytest.raises(InputError, match=r"nobody answers at .*asked \d+ times in \d+\.\d s"):
        remote.predict(make_images())
    assert time.monotonic() - start >= 1
    start = time.monotonic()
    for _ in range(20):
        with pytest.raises(InputError, match="nobody answers"):
            remote.predict(make_images())
    assert time.monotonic() - start < 6


@both_protocols
def test_a_late_answer_is_given_up_at_the_deadline(protocol, models):
    with ModelServer(models) as server:
        remote = connect(protocol, server, deadline_s=0.6)
        server.gate.delay_s = 6
        start = time.monotonic()
        with pytest.raises(InputError, match=r"did not answer within 0.6 s; raise --deadline"):
            remote.predict(make_images())
        assert time.monotonic() - start < 4


@contextlib.contextmanager
def hanging(models):
    """A server that takes connections and says nothing, on both ports."""
    with (
        stopped(models) as hung,
        socket.create_server(("127.0.0.1", hung.rest_port)),
        socket.create_server(("127.0.0.1", hung.grpc_port)),
    ):
        yield hung


@both_protocols
def test_a_server_that_hangs_costs_no_study_wherever_it_stands(protocol, models):
    with ModelServer(models) as good, hanging(models) as hung:
        connect(protocol, good).predict(make_images())  # The first one takes longer.
        for servers in ((hung, good), (good, hung)):
            before = predictions(good)
            remote = connect(protocol, *servers, deadline_s=3)
            for _ in range(3):
                remote.predict(make_images())
            assert predictions(good) - before == 4


@both_protocols
def test_a_first_contact_that_hangs_is_told_with_what_was_waited(protocol, models):
    with hanging(models) as one, hanging(models) as other:
        start = time.monotonic()
        with pytest.raises(
            InputError, match=r"did not say within 0.5 s what it serves\); .*raise --deadline"
        ):
            connect(protocol, one, other, deadline_s=1)
        assert time.monotonic() - start < 8


def test_a_first_contact_has_its_share_of_the_deadline():
    shares = {0.5: 0.5, 10: 10, 300: 10, 3000: 100}
    assert {s: Connection(deadline_s=s).contact_s for s in shares} == shares


@both_protocols
def test_servers_of_different_models_are_refused_before_any_study(protocol, server, other_models):
    with ModelServer(other_models) as other:
        with pytest.raises(InputError, match="different models as version 2 of strokeseg") as error:
            connect(protocol, server, other)
        said = str(error.value)
        assert all(re.search(rf":{s}\b", said) for s in ports_of(protocol, server, other))
        assert re.search(r"\(weights_sha256 [0-9a-f]{12} and [0-9a-f]{12}\)", said)
        assert "\n" not in said and predictions(other) == 1


@both_protocols
def test_another_model_on_a_server_that_was_away_is_noticed(protocol, models, other_models):
    with ModelServer(models) as server:
        remote = connect(protocol, server, deadline_s=1)
    ports = {"grpc_port": server.grpc_port, "rest_port": server.rest_port}
    with pytest.raises(InputError, match="nobody answers"):
        remote.predict(make_images())
    with ModelServer(other_models, **ports):
        for _ in range(40):  # It is asked once for each study until it answers.
            time.sleep(0.1)
            with pytest.raises(InputError) as error:
                remote.predict(make_images())
            if "nobody answers" not in str(error.value):
                break
        assert "serve different models as version 2" in str(error.value)


@both_protocols
def test_servers_of_an_export_without_checksum_still_work(protocol, models, local):
    with ModelServer(models) as one, ModelServer(models) as two:
        remote = connect(protocol, one, two, model="older", threshold=None)
        images = make_images()
        assert remote.threshold == 0.45
        assert_same(remote.predict(images), local.predict(images))


def test_a_cohort_does_not_wait_for_a_server_that_hangs_study_by_study(models):
    with ModelServer(models) as server:
        remote = connect("http", server, deadline_s=1)
    with socket.create_server(("127.0.0.1", server.rest_port)):
        with pytest.raises(InputError, match=r"did not answer within 1.0 s"):
            remote.predict(make_images())
        with pytest.raises(InputError, match="asked once .*did not say within 1.0 s"):
            remote.predict(make_images())


@both_protocols
@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"model": "unheard-of"}, "serves no model named unheard-of"),
        ({"version": "/versions/1"}, "version 1 of strokeseg is not at .* has 2; name another"),
        ({"model": "foreign"}, "no model that strokeseg-tf export wrote: it takes x"),
        ({"tls": True}, "no secure connection .*--ca-file"),
        ({"ca_file": "missing.pem", "tls": True}, "missing.pem cannot be read"),
        ({"ca_file": __file__, "tls": True}, "give --ca-file a PEM file"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_what_is_wrong_is_said_in_one_line(protocol, server, options, says):
    with pytest.raises(InputError, match=says) as error:
        connect(protocol, server, **options)
    assert "\n" not in str(error.value)


@both_protocols
def test_the_port_of_the_other_protocol_is_recognised(protocol, server):
    class Swapped:
        grpc_port, rest_port = server.rest_port, server.grpc_port

    with pytest.raises(InputError, match=f"does not speak {protocol} .*8500.*8501"):
        connect(protocol, Swapped)


@both_protocols
def test_a_version_that_goes_during_a_cohort_is_said(protocol, models, folder, tmp_path):
    with ModelServer(models) as server:
        remote = connect(protocol, server)
    shutil.copytree(folder / "plain" / "1", tmp_path / "strokeseg" / "5")
    ports = {"grpc_port": server.grpc_port, "rest_port": server.rest_port}
    with (
        ModelServer({"strokeseg": tmp_path / "strokeseg"}, **ports),
        pytest.raises(InputError, match="version 2 of strokeseg is not at .*, which has 5"),
    ):
        remote.predict(make_images())


@both_protocols
def test_bad_studies_are_refused_in_one_line(protocol, server):
    remote = connect(protocol, server)
    images = make_images()
    broken = {"adc": images["adc"], "dwi": np.full_like(images["dwi"], np.nan)}
    with pytest.raises(InputError, match="dwi has NaN"):
        remote.predict(broken)
    with pytest.raises(InputError, match="adc and dwi must have one shape"):
        remote.predict({"adc": images["adc"], "dwi": images["dwi"][:, 1:]})
    with pytest.raises(InputError, match="at least one slice"):
        remote.predict({m: x[:0] for m, x in images.items()})


def test_what_only_the_graph_refuses_reaches_the_user_in_its_words(server):
    remote = connect("grpc", server)
    slices = {m: np.full((2, 32, 32, 1), np.nan, np.float32) for m in ("adc", "dwi")}
    with pytest.raises(Refusal) as refused:
        remote._send("preprocessed", slices, end=time.monotonic() + 60)
    assert "refused the study: INVALID_ARGUMENT: adc has NaN" in str(
        remote._explained(refused.value)
    )


class Answers(tf.Module):
    """An export's signatures around what it must not answer; by the model's name."""

    def __init__(self, threshold=0.4, scale=1.0, rows=slice(None)):
        self._description = json.dumps({"threshold": threshold})
        self._scale, self._rows = scale, rows

    @tf.function(input_signature=[tf.TensorSpec((None,) * 3, name="dwi")])
    def serve(self, dwi):
        return {"dwi_probability": self._scale * tf.ones_like(dwi)[:, self._rows]}

    @tf.function(input_signature=[tf.TensorSpec((), tf.string, name="request")])
    def describe(self, request):
        with tf.control_dependencies([request]):
            return {"description": tf.constant(self._description)}


ODD = {
    "threshold": (Answers(threshold=1.5), "its description cannot be read .*1.5 is no probab"),
    "shape": (
        Answers(rows=slice(1)),
        r"of the shape \(2, 1, 4\) for dwi of the shape \(2, 3, 4\)",
    ),
    "values": (Answers(scale=2.0), "dwi_probability has values outside of 0 to 1"),
    "numbers": (Answers(scale=np.nan), "dwi_probability has values outside of 0 to 1"),
}


@pytest.fixture(scope="module")
def odd_server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("odd")
    for name, (model, _) in ODD.items():
        signatures = {"serving_default": model.serve, "description": model.describe}
        tf.saved_model.save(model, str(folder / name / "1"), signatures=signatures)
    with ModelServer({name: folder / name for name in ODD}) as server:
        yield server


@both_protocols
@pytest.mark.parametrize("name", ODD)
def test_answers_that_cannot_be_are_refused_in_one_line(protocol, odd_server, name):
    with pytest.raises(InputError, match=ODD[name][1]) as error:
        connect(protocol, odd_server, model=name).predict({"dwi": np.ones((2, 3, 4), np.float32)})
    assert "\n" not in str(error.value)


@contextlib.contextmanager
def listening(answer):
    """A port on which `answer`, called with each connection, speaks; gives its address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    threading.Thread(target=answer, args=(connection,), daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)


def test_an_answer_that_trickles_is_given_up_at_the_deadline_whole():
    def trickle(connection):
        with contextlib.suppress(OSError):
            connection.recv(4096)
            for letter in itertools.chain(b"HTTP/1.1 200 OK\r\n\r\n", itertools.repeat(32)):
                connection.send(bytes([letter]))
                time.sleep(0.02)

    with listening(trickle) as host:
        start = time.monotonic()
        with pytest.raises(InputError, match="did not say within 0.7 s what it serves"):
            load_predictor(f"http://{host}/v1/models/m", connection=Connection(deadline_s=0.7))
        assert time.monotonic() - start < 5


@both_protocols
def test_studies_go_straight_to_the_server_whatever_proxy_is_set(protocol, server, monkeypatch):
    asked = []
    with listening(asked.append) as proxy:
        for name in ("http_proxy", "https_proxy", "grpc_proxy", "all_proxy"):
            monkeypatch.setenv(name, f"http://{proxy}")
            monkeypatch.setenv(name.upper(), f"http://{proxy}")
        for name in ("no_proxy", "no_grpc_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        connect(protocol, server).predict(make_images())
    assert asked == []


@both_protocols
def test_the_systems_authorities_are_trusted_by_both_protocols(
    protocol, models, certificate, monkeypatch
):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.certificate))
    with ModelServer(models, certificate=certificate) as server:
        assert connect(protocol, server, tls=True).version == 2


def connected_to(port):
    """Local ports that are connected to a port of this machine."""
    tables = [Path(f"/proc/net/{table}").read_text("ascii") for table in ("tcp", "tcp6")]
    lines = [line.split() for table in tables for line in table.splitlines()[1:]]
    return {
        own for _, own, other, state, *_ in lines if (other[-4:], state) == (f"{port:04X}", "01")
    }


@both_protocols
@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="Linux lists connections there")
def test_a_predictor_ends_its_connections(protocol, server):
    (port,) = ports_of(protocol, server)
    before = connected_to(port)
    with connect(protocol, server):
        mine = connected_to(port) - before
    assert mine
    for _ in range(100):
        if not connected_to(port) & mine:
            return
        time.sleep(0.05)
    raise AssertionError("its connections are still there")


@both_protocols
def test_tls_and_a_token_let_in_and_nothing_else_does(protocol, models, certificate, monkeypatch):
    ca_file = certificate.certificate
    with ModelServer(models, certificate=certificate, token=TOKEN) as server:
        with pytest.raises(InputError, match="no secure connection"):
            connect(protocol, server, tls=True)
        with pytest.raises(InputError, match=f"put its token in .* {TOKEN_VARIABLE}"):
            connect(protocol, server, tls=True, ca_file=ca_file)
        with pytest.raises(InputError, match="not one that it knows") as error:
            connect(protocol, server, tls=True, ca_file=ca_file, token="wrong-one")
        assert "wrong-one" not in str(error.value)
        monkeypatch.setenv(TOKEN_VARIABLE, f"{TOKEN}\n")
        remote = connect(protocol, server, tls=True, ca_file=ca_file)
        assert remote.predict(make_images()).keys() == {"adc", "dwi"}
        assert TOKEN not in repr(Connection())


def test_a_token_over_an_open_connection_is_remarked(server, capsys):
    connect("grpc", server, token=TOKEN)
    assert "travels unencrypted; use grpcs://" in capsys.readouterr().err


def test_a_model_without_its_threshold_gets_one_half_and_a_remark(server, capsys):
    assert connect("grpc", server, model="plain", threshold=None).threshold == 0.5
    assert "--threshold" in capsys.readouterr().err


def test_rows_and_columns_are_answered_alike(server):
    images = make_images((3, 20, 30))
    rows = [{m: x[i] for m, x in images.items()} for i in range(3)]
    answers = []
    for content in ({"instances": rows}, {"inputs": images}):
        answer = urllib3.request(
            "POST",
            f"http://127.0.0.1:{server.rest_port}/v1/models/strokeseg:predict",
            body=orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY),
        )
        answers.append(orjson.loads(answer.data))
    for m in images:
        by_row = [row[f"{m}_probability"] for row in answers[0]["predictions"]]
        assert by_row == answers[1]["outputs"][f"{m}_probability"]


@pytest.mark.parametrize(
    ("method", "path", "status", "answer"),
    [
        ("GET", "x", 404, {"error": "Could not find any versions of model x"}),
        ("POST", "x:predict", 404, {"error": "Servable not found for request: Latest(x)"}),
        (
            "POST",
            "strokeseg/versions/9:predict",
            404,
            {"error": "Servable not found for request: Specific(strokeseg, 9)"},
        ),
        (
            "GET",
            "strokeseg",
            200,
            {
                "model_version_status": [
                    {
                        "version": "2",
                        "state": "AVAILABLE",
                        "status": {"error_code": "OK", "error_message": ""},
                    }
                ]
            },
        ),
    ],
)
def test_the_stand_in_answers_as_tensorflow_serving_documents(server, method, path, status, answer):
    url = f"http://127.0.0.1:{server.rest_port}/v1/models/{path}"
    received = urllib3.request(method, url, body=b"{}" if method == "POST" else None)
    assert (received.status, orjson.loads(received.data)) == (status, answer)


@pytest.mark.parametrize(
    "options",
    [
        {"deadline_s": 0},
        {"deadline_s": float("inf")},
        {"max_message_mb": 0},
        {"max_message_mb": 2048},
        {"token": "two\nlines"},
    ],
    ids=str,
)
def test_settings_that_make_no_sense_are_refused(options):
    with pytest.raises(InputError, match="--deadline|--max-message-mb|STROKESEG_TOKEN"):
        Connection(**options)


def test_options_for_servers_are_refused_for_paths(folder, cohort, tmp_path, capsys):
    line = ["predict", folder / "run", cohort, "-o", tmp_path / "out", "--deadline", "3"]
    assert main([str(word) for word in line]) == 2
    assert "--deadline, --max-message-mb and --ca-file are for models on a server" in (
        capsys.readouterr().err
    )


@pytest.fixture(scope="module")
def here(local, cohort, tmp_path_factory):
    """What the run predicts on this machine."""
    out = tmp_path_factory.mktemp("here") / "out"
    predict_cohort(local, find_studies(cohort), out, model="run", probabilities=True)
    return out


def without_alarms(text):
    """What is told on standard error beside alarms: there are some of this untrained network."""
    lines = text.splitlines(keepends=True)
    return "".join(line for line in lines if "look at this: " not in line)


@both_protocols
def test_a_study_unlike_the_training_data_is_told_of_by_served_models_too(
    protocol, server, local, cohort, tmp_path
):
    with connect(protocol, server) as remote:
        assert remote.training_data == local.training_data is not None
        result = predict_cohort(remote, find_studies(cohort)[:1], tmp_path / "out", model="m")
    (entry,) = result["studies"].values()
    assert "unlike training" in {alarm["code"] for alarm in entry["alarms"]}


@both_protocols
def test_the_command_predicts_with_an_address_as_with_a_path(
    protocol, server, here, cohort, tmp_path, capsys
):
    where, out = address(protocol, server), tmp_path / "out"
    assert main(["predict", where, str(cohort), "-o", str(out), "--probabilities", "--json"]) == 0
    captured = capsys.readouterr()
    assert without_alarms(captured.err) == ""
    result = json.loads(captured.out)
    assert result == json.loads((out / "predictions.json").read_text())
    assert (result["model"], result["version"], result["threshold"]) == (where, 2, 0.45)
    assert list(result["studies"]) == [files.study for files in find_studies(cohort)]
    for mine in here.glob("*_probability.nii.gz"):
        theirs = nibabel.load(out / mine.name).get_fdata(dtype=np.float32)
        wanted = nibabel.load(mine).get_fdata(dtype=np.float32)
        np.testing.assert_allclose(theirs, wanted, atol=1e-5)


def test_a_bad_study_is_named_and_the_others_are_written(server, cohort, tmp_path, capsys):
    bad = tmp_path / "cohort" / "bad-one"
    shutil.copytree(find_studies(cohort)[0].images["adc"].parents[1], bad)
    shutil.copytree(find_studies(cohort)[1].images["adc"].parents[1], bad.with_name("good"))
    dwi = next(path for path in bad.rglob("*.nii.gz") if "DWI" in path.name)
    image = nibabel.load(dwi)
    voxels = image.get_fdata(dtype=np.float32)
    voxels[3, 3, 2] = np.nan
    nibabel.save(nibabel.Nifti1Image(voxels, image.affine), dwi)
    line = ["predict", address("grpc", server), bad.parent, "-o", tmp_path / "out"]
    assert main([str(word) for word in line]) == 2
    errors = without_alarms(capsys.readouterr().err)
    assert errors.count("\n") == 1 and "1 of 2 studies failed" in errors
    assert "bad-one: " in errors and "NaN" in errors
    assert (tmp_path / "out" / "good_dwi_mask.nii.gz").is_file()


@pytest.mark.parametrize("where", ["here", "there"])
def test_studies_in_parallel_give_what_one_after_the_other_gives(
    where, server, local, cohort, tmp_path
):
    predictor = local if where == "here" else connect("grpc", server)
    contents = []
    for parallel in (1, 5):
        out, done = tmp_path / str(parallel), []
        result = predict_cohort(
            predictor,
            find_studies(cohort),
            out,
            model="m",
            parallel=parallel,
            on_study=lambda *progress, done=done: done.append(progress),
        )
        assert done == [(i, 8) for i in range(1, 9)]
        for entry in result["studies"].values():
            del entry["seconds"]
        masks = {
            path.name: np.asarray(nibabel.load(path).dataobj).tobytes()
            for path in sorted(out.glob("*.nii.gz"))
        }
        contents.append((json.dumps(result), masks))
    assert contents[0] == contents[1]


def test_ctrl_c_stops_a_prediction_at_once_and_leaves_nothing(models, cohort, tmp_path):
    with ModelServer(models) as server:
        remote = connect("grpc", server, deadline_s=7)
        server.gate.delay_s = 6
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
        start = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            predict_cohort(remote, find_studies(cohort), tmp_path / "out", model="m", parallel=3)
        assert time.monotonic() - start < 4
        assert list(tmp_path.iterdir()) == []


def test_studies_that_fail_for_one_reason_are_told_together(models, cohort, tmp_path):
    with ModelServer(models) as server:
        remote = connect("grpc", server, deadline_s=0.3)
    good = find_studies(cohort)
    files = [StudyFiles(f"s{i}", good[0].images) for i in range(6)]
    with pytest.raises(InputError, match="and 2 more: nobody answers") as error:
        predict_cohort(remote, files, tmp_path / "out", model="m", parallel=1)
    assert str(error.value).count("nobody answers") == 2
