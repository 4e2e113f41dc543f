"""Shards on an S3 server: real commands against a real server on this machine."""

import base64
import contextlib
import ctypes
import http.server
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tfrecord_tools.errors import InputError
from tfrecord_tools.integrity import check_shards
from tfrecord_tools.shards import MANIFEST
from tfrecord_tools.storage import SCHEMES, Remote, locate, without_secrets

boto3 = pytest.importorskip("boto3")
pytest.importorskip("moto")
pytest.importorskip("tensorflow_io")
EndpointConnectionError = pytest.importorskip("botocore.exceptions").EndpointConnectionError

KEY, SECRET_KEY = "AKIAQWERTYUIOP", "a-secret-that-nobody-prints"
ROOT = "s3://bucket/cohort"
SHARES = "train=0.5,validation=0.25,test=0.25"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def s3_server(**environment):
    """A moto server of its own with an empty bucket; its address."""
    port = free_port()
    command = [sys.executable, "-c", "from moto.server import main; main()", "-p", str(port)]
    process = subprocess.Popen(
        command,
        env=os.environ | environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        put_bucket(f"http://127.0.0.1:{port}")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


def client(address):
    return boto3.client(
        "s3",
        endpoint_url=address,
        region_name="us-east-1",
        aws_access_key_id=KEY,
        aws_secret_access_key=SECRET_KEY,
    )


def put_bucket(address):
    for _ in range(300):
        with contextlib.suppress(EndpointConnectionError):
            client(address).create_bucket(Bucket="bucket")
            return
        time.sleep(0.1)
    raise TimeoutError(f"no S3 server at {address}")


@pytest.fixture(scope="module")
def server():
    with s3_server() as address:
        yield address


def run(address, *arguments, **environment):
    """A command in a process of its own: its exit status, and what it printed."""
    return run_python(address, "-m", "strokeseg_tf.cli", *arguments, **environment)


def variables(address):
    return os.environ | {
        "S3_ENDPOINT": address,
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_REGION": "us-east-1",
        "CUDA_VISIBLE_DEVICES": "",
    }


def run_python(address, *arguments, **environment):
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        env=variables(address) | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    for secret in (KEY, SECRET_KEY):
        assert secret not in done.stdout + done.stderr
    return done


def refused(done):
    """The one line of a refusal."""
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("strokeseg-tf: error: ") and done.stderr.count("\n") == 1
    assert done.stdout == ""
    return done.stderr


MANY = """\
import json, os, sys
from strokeseg_tf.cli import main
statuses = [main(arguments) for arguments in json.loads(sys.argv[1])]
sys.stderr.flush()
os._exit(0 if set(statuses) == {2} else 1)
"""


def refused_all(address, *commands):
    """The lines of several refusals, in one process."""
    commands = json.dumps([[str(part) for part in command] for command in commands])
    done = run_python(address, "-c", MANY, commands)
    assert done.returncode == 0 and done.stdout == "", done.stdout + done.stderr
    lines = done.stderr.splitlines()
    assert all(line.startswith("strokeseg-tf: error: ") for line in lines), lines
    return lines


@pytest.fixture(scope="module")
def uploaded(server, cohort):
    done = run(server, "convert", cohort, ROOT, "--split", SHARES)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == ROOT
    return ROOT


def objects(address, prefix):
    listed = client(address).list_objects_v2(Bucket="bucket", Prefix=prefix)
    return sorted(entry["Key"] for entry in listed.get("Contents", ()))


def fetch(address, key):
    return client(address).get_object(Bucket="bucket", Key=key)["Body"].read()


def store(address, key, content):
    client(address).put_object(Bucket="bucket", Key=key, Body=content)


def test_remote_shards_are_the_local_ones_byte_for_byte(server, uploaded, shards):
    assert objects(server, "cohort/") == sorted(f"cohort/{p.name}" for p in shards.iterdir())
    for path in shards.iterdir():
        assert fetch(server, f"cohort/{path.name}") == path.read_bytes()


def test_inspect_exits_well_although_its_libraries_abort(server, uploaded, tmp_path, shards):
    done = run(server, "inspect", uploaded, "--json", "--extract", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["counts"] == check_shards(shards).counts
    assert (tmp_path / "out" / "studies.csv").is_file()


@pytest.mark.slow
def test_fit_and_evaluate_read_remote_shards(server, uploaded, tmp_path):
    tiny = {"model": {"filters": [2, 2, 2, 2, 2], "bottleneck": 2, "image_size": 32}}
    (tmp_path / "tiny.json").write_text(json.dumps(tiny))
    settings = ["--preset", "small", "--config", tmp_path / "tiny.json", "--epochs", "1"]
    settings += ["--variant", "unimodal", "--modality", "dwi"]
    trained = run(server, "fit", uploaded, "--run", tmp_path / "run", *settings)
    assert trained.returncode == 0, trained.stderr
    run_files = b"".join(p.read_bytes() for p in (tmp_path / "run").glob("*.json"))
    assert KEY.encode() not in run_files and SECRET_KEY.encode() not in run_files
    out = tmp_path / "evaluation"
    scored = run(server, "evaluate", tmp_path / "run", "--data", uploaded, "-o", out)
    assert scored.returncode == 0, scored.stderr
    assert (out / "scores.csv").is_file()


def test_what_cannot_be_read_or_replaced_is_told_in_one_line(server, uploaded, cohort, shards):
    store(server, "mixed/letter.txt", b"not ours")
    for path in shards.iterdir():
        content = path.read_bytes()
        if path.name != MANIFEST:
            store(server, f"half/{path.name}", content)
        damaged = path.name.startswith("test-")
        store(server, f"damaged/{path.name}", content[:-9] if damaged else content)
    exists, mixed, half, damaged, no_bucket, no_folder, elsewhere = refused_all(
        server,
        ["convert", cohort, uploaded],
        ["convert", cohort, "s3://bucket/mixed", "--overwrite"],
        ["inspect", "s3://bucket/half"],
        ["inspect", "s3://bucket/damaged"],
        ["inspect", "s3://nobucket/cohort"],
        ["inspect", "s3://bucket/nothing"],
        ["convert", cohort, "s3://nobucket/cohort"],
    )
    assert "pass --overwrite" in exists
    assert "letter.txt" in mixed and objects(server, "mixed/") == ["mixed/letter.txt"]
    assert "is unfinished" in half
    assert "s3://bucket/damaged/test-00000-of-00001.tfrecord is damaged" in damaged
    assert "bucket" in no_bucket and "does not exist" in no_bucket
    assert "is no shards folder" in no_folder
    assert "does not exist" in elsewhere


PAIRS = """\
import os, sys
from tfrecord_tools.reader import read_slice_pairs, read_studies
pairs = [pair["dwi"].sum() for pair in read_slice_pairs(sys.argv[1], "train").as_numpy_iterator()]
slices = [dwi.sum() for study in read_studies(sys.argv[1], "train") for dwi in study.images["dwi"]]
print(len(pairs), pairs == slices, flush=True)
os._exit(0)
"""


@pytest.mark.slow
def test_slice_pairs_and_studies_of_a_remote_folder_agree(server, uploaded, shards):
    done = run_python(server, "-c", PAIRS, uploaded)
    count = check_shards(shards).counts["train"]["slice_pairs"]
    assert done.stdout.split() == [str(count), "True"], done.stderr


@pytest.mark.slow
def test_a_finished_folder_is_replaced_whole(server, uploaded, cohort):
    for shares in ("train=0.5,old=0.5", "train=0.5,new=0.5"):
        done = run(server, "convert", cohort, "s3://bucket/again", "--split", shares, "--overwrite")
        assert done.returncode == 0, done.stderr
    names = [key.rpartition("/")[2] for key in objects(server, "again/")]
    assert [name.partition("-0")[0] for name in names] == [MANIFEST, "new", "train"]


def test_a_server_that_is_down_is_told_soon():
    start = time.monotonic()
    line = refused(run(f"http://127.0.0.1:{free_port()}", "inspect", ROOT))
    assert "cannot be reached" in line and time.monotonic() - start < 60


@pytest.mark.slow
def test_wrong_credentials_are_told(shards):
    with s3_server(INITIAL_NO_AUTH_ACTION_COUNT="1") as address:
        assert "credentials" in refused(run(address, "inspect", ROOT))


@contextlib.contextmanager
def cutting_proxy(address, allowance, stalls=None):
    """A server that hands connections on to `address` and cuts each after so many bytes.

    With an event in `stalls` it sets that instead, and hands on no more.
    """
    host, port = address.removeprefix("http://").split(":")

    def carry(source, target):
        left = allowance
        with contextlib.suppress(OSError):
            while (content := source.recv(4096)) and left > 0:
                target.sendall(content[:left])
                left -= len(content)
        if stalls and left <= 0:
            stalls.set()
            return
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def serve():
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = socket.create_connection((host, int(port)))
                for pair in ((client, server), (server, client)):
                    threading.Thread(target=carry, args=pair, daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.slow
def test_a_connection_cut_in_the_middle_is_told(server, uploaded):
    with cutting_proxy(server, 100_000) as address:
        line = refused(run(address, "inspect", uploaded))
    assert ROOT in line


# The clients of other storages, against servers that refuse


@contextlib.contextmanager
def answering(status):
    """A server that answers every request with a status; its address."""

    class Answer(http.server.BaseHTTPRequestHandler):
        def answer(self):
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_HEAD = do_PUT = answer

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(("status", "told"), [(404, "does not exist"), (403, "is refused by")])
def test_azure_says_what_is_missing_and_what_is_refused(cohort, status, told, monkeypatch):
    """tensorflow-io reports both as internal errors; a missing file is no missing container."""
    place = "az://account/container/shards"
    with answering(status) as address:
        monkeypatch.setenv("TF_AZURE_STORAGE_BLOB_ENDPOINT", f"{address}/account")
        monkeypatch.setenv("TF_AZURE_STORAGE_KEY", base64.b64encode(SECRET_KEY.encode()).decode())
        lines = refused_all(address, ["inspect", place], ["convert", cohort, place])
    assert all(told in line for line in lines)


def test_hdfs_without_hadoop_is_told_before_anything_is_converted(cohort):
    with contextlib.suppress(OSError):
        ctypes.CDLL("libhdfs.so")
        pytest.skip("Hadoop is installed")
    with socket.create_server(("127.0.0.1", 0)) as namenode:
        place = f"hdfs://127.0.0.1:{namenode.getsockname()[1]}/shards"
        for line in refused_all("", ["inspect", place], ["convert", cohort, place]):
            assert "needs Hadoop's libhdfs.so" in line


# What is interrupted goes on


@pytest.fixture
def caches(tmp_path, monkeypatch):
    """Where what is to be uploaded is made; nothing is left of it in the end."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    yield tmp_path / "caches" / "strokeseg-tf"
    assert not list((tmp_path / "caches" / "strokeseg-tf").iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["conversion", "upload"])
def test_a_killed_conversion_goes_on_to_the_same_objects(server, cohort, shards, caches, moment):
    uploading, out = threading.Event(), f"killed-{moment}"
    finished = 2 if moment == "conversion" else 8
    command = ["convert", str(cohort), f"s3://bucket/{out}", "--split", SHARES]
    with cutting_proxy(server, 50_000, uploading) as address:
        process = subprocess.Popen(
            [sys.executable, "-m", "strokeseg_tf.cli", *command],
            env=variables(address),
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 100
        while time.monotonic() < deadline and process.poll() is None:
            parts = len(list(caches.glob(".*/parts/*.json")))
            if parts >= finished and (moment == "conversion" or uploading.is_set()):
                break
            time.sleep(0.002)
        process.kill()
        assert process.wait() == -signal.SIGKILL
    kept = len(list(caches.glob(".*/parts/*.json")))
    assert kept >= finished
    assert f"{out}/{MANIFEST}" not in objects(server, out)
    done = run(server, *command)
    assert done.returncode == 0, done.stderr
    assert f"{kept} finished studies are taken up again" in done.stderr
    assert {key.rpartition("/")[2]: fetch(server, key) for key in objects(server, f"{out}/")} == {
        path.name: path.read_bytes() for path in shards.iterdir()
    }


@pytest.mark.slow
def test_an_upload_that_fails_keeps_what_was_converted(server, cohort, shards, caches):
    command = ["convert", cohort, "s3://bucket/failed", "--split", SHARES]
    with cutting_proxy(server, 50_000) as address:
        line = refused(run(address, *command))
    (work,) = caches.iterdir()
    assert f"is kept in {work}: the same command goes on" in line
    done = run(server, *command)
    assert done.returncode == 0 and "8 finished studies are taken up again" in done.stderr
    assert len(objects(server, "failed/")) == len(list(shards.iterdir()))


def test_addresses_are_what_pathlib_makes_of_them_too():
    assert (
        locate("s3://bucket/a/b/") == locate(Path("s3://bucket/a/b")) == Remote("s3://bucket/a/b")
    )
    assert locate("S3://bucket/a").url == "s3://bucket/a"
    assert locate("shards/x") == Path("shards/x")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_credentials_in_an_address_are_refused_unprinted(scheme):
    for address in (f"{scheme}://{KEY}:{SECRET_KEY}@bucket/x", f"{scheme}://b/x?sig={SECRET_KEY}"):
        with pytest.raises(InputError, match="credentials") as caught:
            locate(address)
        assert SECRET_KEY not in str(caught.value)


@pytest.mark.parametrize(
    "address",
    ["ftp://host/x", "http://host/x", "s3://bucket", "s3://a//b", "az://account/container"],
)
def test_what_is_no_place_is_refused(address):
    with pytest.raises(InputError, match=r"use a folder or one of|names no folder; write"):
        locate(address)


@pytest.mark.parametrize(
    "name", ["AWS_SESSION_TOKEN", "TF_AZURE_STORAGE_KEY", "TF_AZURE_STORAGE_SAS"]
)
def test_secrets_of_the_environment_leave_every_text(name, monkeypatch):
    monkeypatch.setenv(name, "tokentoken")
    assert without_secrets("a tokentoken b") == "a *** b"


def test_without_tensorflow_io_the_extra_is_named(server, tmp_path):
    """A package of that name that cannot be imported stands in for one that is not there."""
    (tmp_path / "tensorflow_io.py").write_text("raise ImportError('not installed')\n")
    line = refused(run(server, "inspect", ROOT, PYTHONPATH=str(tmp_path)))
    assert "pip install 'strokeseg-tf[io]'" in line
