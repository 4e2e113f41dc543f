"""Local paths and remote ones such as `s3://bucket/shards`: the one place that tells them apart.

Remote files are reached through TensorFlow's file systems. Credentials come from the environment
that each of them reads; no message of ours repeats one.
"""

import contextlib
import ctypes
import dataclasses
import os
import re
import socket
import tempfile
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

from tfrecord_tools.atomic import NEW, resumable_folder, work_folder
from tfrecord_tools.errors import InputError
from tfrecord_tools.names import file_name

#: Scheme -> the package that brings its file system.
SCHEMES = {
    "s3": "tensorflow_io", "hdfs": "tensorflow_io", "az": "tensorflow_io", "gs": "tensorflow"
}  # fmt: skip

#: What stands before the folder in an address, where that is no bucket.
HOMES = {"az": "ACCOUNT/CONTAINER", "hdfs": "HOST:PORT"}

#: Bytes read at once: few requests, little memory.
BLOCK_BYTES = 8 << 20

#: Seconds until a server that does not answer counts as down; the S3 client alone tries long.
ANSWER_SECONDS = 10

#: What the S3 client reads from the environment, where the user set nothing: by itself it waits
#: five minutes for a server that does not answer, and keeps 1.3 GB of buffers.
PATIENCE = {
    "AWS_RETRY_MODE": "standard",
    "AWS_MAX_ATTEMPTS": "3",
    "S3_CONNECT_TIMEOUT_MSEC": "10000",
    "S3_REQUEST_TIMEOUT_MSEC": "30000",
    "S3_MULTI_PART_DOWNLOAD_CHUNK_SIZE": str(BLOCK_BYTES),
    "S3_MULTI_PART_UPLOAD_CHUNK_SIZE": str(2 * BLOCK_BYTES),
}

#: Environment variables that lead the client for gs around its usual server.
PROXIES = (
    *("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"), "CLOUD_STORAGE_EMULATOR_ENDPOINT"
)  # fmt: skip

#: Environment variables whose values are secrets.
SECRET = re.compile(r"KEY|SECRET|TOKEN|PASSWORD|CREDENTIAL|CONNECTION_STRING|_SAS", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Remote:
    """A remote file or folder; as much of `pathlib.Path` as shards need."""

    url: str

    def __str__(self):
        return self.url

    def __truediv__(self, name: str) -> "Remote":
        return Remote(f"{self.url}/{name}")

    @property
    def name(self) -> str:
        """The last part."""
        return self.url.rpartition("/")[2]

    @property
    def scheme(self) -> str:
        """Key of `SCHEMES`."""
        return self.url.partition(":")[0]

    @property
    def authority(self) -> str:
        """The bucket, account or host."""
        return self.url.split("/")[2]


def locate(path: str | Path | Remote) -> Path | Remote:
    """A path a user gave, as what it is.

    Raises:
        InputError: A scheme nobody knows, credentials in the address, or no folder in it.
    """
    if isinstance(path, Remote):
        return path
    # pathlib makes one slash of two.
    parts = re.fullmatch(r"([A-Za-z][A-Za-z0-9+.-]+):(//?)(.*)", os.fspath(path), re.DOTALL)
    if not parts or (parts[2] == "/" and parts[1].lower() not in SCHEMES):
        return Path(path)
    scheme, rest = parts[1].lower(), parts[3].strip("/")
    if scheme not in SCHEMES:
        known = ", ".join(f"{name}://" for name in SCHEMES)
        raise InputError(f"{scheme}:// is no known storage; use a folder or one of {known}")
    if re.search(r"[?#]|^[^/]*@", rest):
        raise InputError(
            f"a {scheme}:// address holds more than a place (an @, ? or #); give credentials "
            "through the environment and name the bucket and folder alone"
        )
    home = HOMES.get(scheme, "BUCKET")
    folders = rest.split("/")
    if not rest.isprintable() or not all(folders) or len(folders) <= len(home.split("/")):
        raise InputError(f"{scheme}://{rest!a} names no folder; write {scheme}://{home}/FOLDER")
    return Remote(f"{scheme}://{rest}")


def read_text(path: Path | Remote) -> str:
    """The text of a file.

    Raises:
        FileNotFoundError: There is no such file.
        InputError: The storage cannot be reached or refuses.
    """
    return b"".join(_blocks(path)).decode()


@contextlib.contextmanager
def local_copy(path: Path | Remote) -> Iterator[Path]:
    """A local file with the content: the file itself, or a temporary copy of a remote one.

    Raises:
        FileNotFoundError: There is no such file.
        InputError: The storage cannot be reached or refuses.
    """
    if not isinstance(path, Remote):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="strokeseg-") as folder:
        local = Path(folder) / path.name
        with open(local, "wb") as file:
            for block in _blocks(path):
                file.write(block)
        yield local


def is_folder(path: Path | Remote) -> bool:
    """Whether there is a local folder, or a remote one with something in it."""
    return bool(_names(path)) if isinstance(path, Remote) else path.is_dir()


@contextlib.contextmanager
def shards_folder(
    out: str | Path, overwrite: bool = False, *, marker: str, pattern: str
) -> Iterator[Path]:
    """`resumable_folder` for an output that may be remote.

    What is remote is made in a work folder here and uploaded when the block ends well; the same
    block goes on there after an interruption, or when the upload has failed.

    Args:
        out: Local folder, or a remote one.
        overwrite: Whether a finished folder may be replaced.
        marker: Name of the file whose presence makes a folder finished.
        pattern: Regular expression of the other files' names; a remote folder that holds
            anything else is never touched.

    Raises:
        InputError: `out` must not be replaced, or cannot be reached: before anything is done.
    """
    place = locate(out)
    if not isinstance(place, Remote):
        with resumable_folder(place, overwrite, marker=marker) as work:
            yield work
        return
    before = _check_free(place, overwrite, marker, pattern)

    def publish(work: Path) -> None:
        try:
            upload(work / NEW, place, marker=marker, replaced=before)
        except InputError as error:
            raise InputError(
                f"{error}; what is to be uploaded is kept in {work}: the same command goes on "
                "from there"
            ) from error

    home = _made_here(place)
    home.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with resumable_folder(home, marker=marker, publish=publish) as work:
        yield work


def work_folder_of(out: str | Path) -> Path:
    """The work folder of `shards_folder`."""
    place = locate(out)
    return work_folder(_made_here(place) if isinstance(place, Remote) else place)


def _made_here(place: Remote) -> Path:
    """A place among the user's caches that belongs to a remote folder."""
    caches = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(caches, "strokeseg-tf", file_name(place.url))


def upload(local: Path, remote: Remote, *, marker: str, replaced=frozenset()) -> None:
    """Copy the files of a folder in place of what stood there before.

    Without its marker a folder is unfinished: it is removed first and written last.

    Args:
        local: The folder.
        remote: Where to.
        marker: Name of the file in it that makes it finished.
        replaced: Names of the files that stand there.

    Raises:
        InputError: The storage cannot be reached or refuses.
    """
    import tensorflow as tf

    names = sorted(path.name for path in local.iterdir() if path.name != marker)
    old = sorted(replaced - {*names, marker})
    for name in [marker, *old] if marker in replaced else old:
        with _explaining(remote / name):
            tf.io.gfile.remove(str(remote / name))
    for name in [*names, marker]:
        with _explaining(remote / name), tf.io.gfile.GFile(str(remote / name), "wb") as target:
            for block in _blocks(local / name):
                target.write(block)


def _check_free(out: Remote, overwrite: bool, marker: str, pattern: str) -> frozenset[str]:
    """Names of the files that will be replaced."""
    names = _names(out)
    if marker in names and not overwrite:
        raise InputError(f"{out} exists; choose another name or pass --overwrite")
    strange = [name for name in names if name != marker and not re.fullmatch(pattern, name)]
    if strange:
        raise InputError(
            f"{out} is not replaced: it holds {strange[0]}, which no conversion wrote; "
            "choose another name"
        )
    return frozenset(names)


def _names(folder: Remote) -> list[str]:
    """Names in a remote folder; none where there is no such folder."""
    # Listing alone calls a folder missing whose storage refuses us.
    with contextlib.suppress(FileNotFoundError):
        next(_blocks(folder / "x"), None)
    import tensorflow as tf

    with _explaining(folder):
        if folder.scheme in ("s3", "gs"):
            tf.io.gfile.stat(f"{folder.scheme}://{folder.authority}/")
        try:
            return sorted(name.strip("/") for name in tf.io.gfile.listdir(str(folder)))
        except tf.errors.NotFoundError:
            if folder.scheme == "az":  # There, a folder may be empty, but not its container miss.
                raise
            return []


def _blocks(path: Path | Remote) -> Iterator[bytes]:
    """The content of a file, a piece at a time."""
    if not isinstance(path, Remote):
        with open(path, "rb") as file:
            while block := file.read(BLOCK_BYTES):
                yield block
        return
    _load(path)
    import tensorflow as tf

    with _explaining(path):
        try:
            with tf.io.gfile.GFile(str(path), "rb") as file:
                # Asked for all, it would ask for the size, and take a refusal for a missing file.
                while block := file.read(BLOCK_BYTES):
                    yield block
        except tf.errors.OpError as error:
            if not _is_missing(error):
                raise
            raise FileNotFoundError(str(path)) from error


def _load(path: Remote) -> None:
    """Make TensorFlow know the scheme of a path, once its server is seen to answer."""
    server = _server_of(path)
    if server:
        try:
            socket.create_connection(server, timeout=ANSWER_SECONDS).close()
        except OSError as error:
            raise InputError(
                f"{path} cannot be reached: {server[0]}:{server[1]} does not answer "
                f"({error.strerror or error}); check the address, the server and the network"
            ) from error
    if path.scheme == "hdfs":
        _check_hadoop(path)
    if path.scheme == "s3":
        for name, value in PATIENCE.items():
            os.environ.setdefault(name, value)
    if SCHEMES[path.scheme] == "tensorflow_io":
        try:
            import tensorflow_io  # noqa: F401
        except (ImportError, NotImplementedError) as error:
            raise InputError(_no_file_system(path)) from error


def _check_hadoop(path: Remote) -> None:
    """Without Hadoop's library the client for hdfs calls all files missing."""
    home = os.environ.get("HADOOP_HDFS_HOME")
    for library in [f"{home}/lib/native/libhdfs.so"] * bool(home) + ["libhdfs.so"]:
        with contextlib.suppress(OSError):
            ctypes.CDLL(library)
            return
    raise InputError(
        f"{path} needs Hadoop's libhdfs.so and Java's libjvm.so; install both, set "
        "HADOOP_HDFS_HOME and CLASSPATH, and name their folders in LD_LIBRARY_PATH"
    )


def _server_of(path: Remote) -> tuple[str, int] | None:
    """Host and port behind a path, where it is known without asking the scheme's client."""
    set_to = os.environ.get
    if path.scheme == "s3":
        address = set_to("S3_ENDPOINT")
    elif path.scheme == "gs":
        proxied = any(map(set_to, PROXIES))
        address = None if proxied else "storage.googleapis.com"
    elif path.scheme == "hdfs":
        address = path.url
    elif set_to("TF_AZURE_USE_DEV_STORAGE"):
        address = "http://127.0.0.1:10000"
    else:
        usual = f"{path.authority}.blob.core.windows.net"
        address = set_to("TF_AZURE_STORAGE_BLOB_ENDPOINT") or usual
    if not address:
        return None
    plain = path.scheme == "az" and set_to("TF_AZURE_STORAGE_USE_HTTP")
    kind = "http" if plain else "https"
    parts = urllib.parse.urlsplit(address if "://" in address else f"{kind}://{address}")
    try:
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError as error:
        raise InputError(f"the port of {parts.hostname} is no number; correct it") from error
    return (parts.hostname, port) if parts.hostname and port else None


def _no_file_system(path: Remote) -> str:
    return (
        f"{path} needs tensorflow-io and the TensorFlow it fits; install both with "
        "pip install 'strokeseg-tf[io]'"
    )


@contextlib.contextmanager
def _explaining(path: Remote) -> Iterator[None]:
    """Turn TensorFlow's errors about a remote file into one sentence without secrets."""
    import tensorflow as tf

    try:
        yield
    except tf.errors.UnimplementedError as error:
        raise InputError(_no_file_system(path)) from error
    except (tf.errors.OpError, RuntimeError) as error:  # The client for az leaks those of C++.
        raise InputError(f"{path} {_explain(error)}") from error


def _explain(error: Exception) -> str:
    if _is_missing(error):
        return (
            "cannot be reached: its bucket or container does not exist; create it or check the name"
        )
    if _is_refused(error):
        return (
            "is refused by its storage; check the credentials in the environment and their rights"
        )
    text = without_secrets(getattr(error, "message", str(error)).strip(" :"))
    reason = " ".join(text.split())[:160] or type(error).__name__
    return f"cannot be reached ({reason}); check the address, the server and the network"


def _is_missing(error: Exception) -> bool:
    import tensorflow as tf

    return isinstance(error, tf.errors.NotFoundError) or _status(error) == 404


def _is_refused(error: Exception) -> bool:
    import tensorflow as tf

    refusals = tf.errors.PermissionDeniedError, tf.errors.UnauthenticatedError
    return isinstance(error, refusals) or _status(error) in (401, 403)


def _status(error: Exception) -> int | None:
    """The status of the server's answer, which the client for az gives in words alone."""
    found = re.search(r"\(Status: (\d+)", str(error))
    return int(found[1]) if found else None


def without_secrets(text: str) -> str:
    """A text in which no secret of the environment stands."""
    for name, value in os.environ.items():
        if SECRET.search(name) and len(value) > 3:
            text = text.replace(value, "***")
    return text
