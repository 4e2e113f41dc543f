"""The client of a served model, against real SavedModels over real gRPC and HTTP."""

import contextlib
import json
import os
import shutil
import signal
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

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
from strokeseg_tf.serving.connection import TOKEN_VARIABLE, Connection
from strokeseg_tf.serving.endpoint import Endpoint, parse_endpoint
from strokeseg_tf.serving.export import export
from strokeseg_tf.serving.protocol import Refusal
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
    first = export(run.folder, folder / "strokeseg")
    shutil.copytree(first, folder / "strokeseg" / "2")
    for name, model in OTHERS.items():
        tf.saved_model.save(model, str(folder / name / "1"), signatures=model.serve)
    return folder


@pytest.fixture(scope="module")
def models(folder):
    return Models({name: folder / name for name in ("strokeseg", *OTHERS)})


@pytest.fixture(scope="module")
def server(models):
    with ModelServer(models) as server:
        yield server


@pytest.fixture(scope="module")
def local(folder):
    return load_predictor(folder / "run")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    return make_certificate(tmp_path_factory.mktemp("tls"))


def address(protocol, *servers, model="strokeseg", version="", tls=False):
    """The address of a model on servers, as a user types it."""
    ports = [server.grpc_port if protocol == "grpc" else server.rest_port for server in servers]
    hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
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
            load_predictor(address)


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
        assert predictions(server) == 4


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
        assert predictions(again[0]) == 1
    finally:
        timer.join()
        again[0].stop()


@both_protocols
def test_requests_go_round_and_a_dead_server_is_left_out(protocol, models):
    with ModelServer(models) as one, stopped(models) as dead, ModelServer(models) as other:
        remote = connect(protocol, one, dead, other)
        for _ in range(8):
            remote.predict(make_images())
        assert min(predictions(one), predictions(other)) >= 2
        assert predictions(one) + predictions(other) == 8


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


def test_a_server_that_hangs_costs_one_study_and_the_others_go_elsewhere(models):
    with (
        ModelServer(models) as good,
        stopped(models) as hung,
        socket.create_server(("127.0.0.1", hung.rest_port)),
    ):
        remote = connect("http", good, hung, deadline_s=3)
        with pytest.raises(InputError, match=r"did not answer within 3.0 s"):
            remote.predict(make_images())
        for _ in range(4):
            remote.predict(make_images())
        assert predictions(good) == 4


def test_a_cohort_does_not_wait_for_a_server_that_hangs_study_by_study(models):
    with ModelServer(models) as server:
        remote = connect("http", server, deadline_s=1)
    with socket.create_server(("127.0.0.1", server.rest_port)):
        with pytest.raises(InputError, match=r"did not answer within 1.0 s"):
            remote.predict(make_images())
        with pytest.raises(InputError, match="asked once .*not even say its versions"):
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


@both_protocols
def test_the_command_predicts_with_an_address_as_with_a_path(
    protocol, server, here, cohort, tmp_path, capsys
):
    where, out = address(protocol, server), tmp_path / "out"
    assert main(["predict", where, str(cohort), "-o", str(out), "--probabilities", "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
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
    errors = capsys.readouterr().err
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
