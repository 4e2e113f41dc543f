"""The address of a served model: `grpc://HOST:8500/NAME` or `http://HOST:8501/v1/models/NAME`."""

import dataclasses
import re
from urllib.parse import urlsplit

from tfrecord_tools.errors import InputError

#: Port by scheme, where the address names none.
PORTS = {"grpc": 8500, "grpcs": 8500, "http": 80, "https": 443}

_PATHS = {
    "grpc": re.compile(r"(?P<prefix>)/(?P<model>[^/:]+)(?:/versions/(?P<version>\d+))?/?"),
    "http": re.compile(
        r"(?P<prefix>.*)/v1/models/(?P<model>[^/:]+)(?:/versions/(?P<version>\d+))?(?:/|:predict)?"
    ),
}
_SERVER = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^\[\]:/?#@\s]+)(?::(?P<port>\d{1,5}))?")
_FORMS = "grpc://HOST:8500/NAME or http://HOST:8501/v1/models/NAME"


@dataclasses.dataclass(frozen=True)
class Endpoint:
    """A model on one or more servers.

    Attributes:
        protocol: "grpc" or "http".
        secure: Whether over TLS.
        servers: `host:port` of each.
        model: The model's name there.
        version: The version asked for, or None for the server's latest.
        prefix: What stands before `/v1/models` in an HTTP path, behind a proxy.
    """

    protocol: str
    secure: bool
    servers: tuple[str, ...]
    model: str
    version: int | None = None
    prefix: str = ""

    def __str__(self):
        scheme = self.protocol + "s" * self.secure
        path = self.prefix + "/v1/models" if self.protocol == "http" else ""
        version = "" if self.version is None else f"/versions/{self.version}"
        return f"{scheme}://{','.join(self.servers)}{path}/{self.model}{version}"


def is_address(model) -> bool:
    """Whether MODEL, as a user names it, is an address and no path."""
    return "://" in str(model)


def parse_endpoint(address: str) -> Endpoint:
    """The endpoint of an address; several servers stand before the path, separated by commas.

    Raises:
        InputError: It has another form.
    """
    try:
        parts = urlsplit(address)
    except ValueError as error:
        raise InputError(
            f"the address of the model is malformed ({error}); write {_FORMS}"
        ) from error
    # Never the address itself in a message: it may hold a password.
    if "@" in parts.netloc:
        raise InputError(
            "the address of a model holds a name or password before @, where it would be seen; "
            "take it out and set the environment variable STROKESEG_TOKEN"
        )
    if parts.scheme not in PORTS:
        raise InputError(
            f"a model cannot be reached by {parts.scheme}://; use grpc, grpcs, http or https"
        )
    protocol = parts.scheme.removesuffix("s")
    path = _PATHS[protocol].fullmatch(parts.path)
    servers = [_SERVER.fullmatch(server) for server in parts.netloc.split(",")]
    if not path or not all(servers) or parts.query or parts.fragment:
        shown = f"{parts.scheme}://{parts.netloc}{parts.path}"
        raise InputError(f"{shown} is no address of a model; write {_FORMS}")
    port = PORTS[parts.scheme]
    if any(not 0 < int(server["port"] or port) < 2**16 for server in servers):
        raise InputError(f"{parts.netloc} names a port outside of 1 to 65535; write {_FORMS}")
    if path["version"] and int(path["version"]) >= 2**63:
        raise InputError(f"{path['version']} is no version; write a smaller number, or none")
    return Endpoint(
        protocol,
        parts.scheme.endswith("s"),
        tuple(dict.fromkeys(f"{s['host']}:{s['port'] or port}" for s in servers)),
        path["model"],
        int(path["version"]) if path["version"] else None,
        path["prefix"],
    )
