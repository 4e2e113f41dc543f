"""How to reach a served model: patience, sizes, trust, and who one is."""

import dataclasses
import os
from pathlib import Path

from tfrecord_tools.errors import InputError

#: A secret: it comes by the environment, never on a command line, and is never printed.
TOKEN_VARIABLE = "STROKESEG_TOKEN"

#: A study of the largest clinical sizes takes a CPU a minute or two; a server may restart in it.
DEADLINE_S = 300.0

#: A mistyped host is not worth the patience of a study.
CONTACT_S = 10.0

#: In MiB: a study of 24 slices of 256 x 256 in both modalities has 12.
MAX_MESSAGE_MB = 64.0


@dataclasses.dataclass(frozen=True)
class Connection:
    """The client's settings.

    Attributes:
        deadline_s: Seconds for one study, retries included.
        max_message_mb: Larger requests are sent in parts, in MiB.
        ca_file: PEM file of the authority to trust, instead of the usual ones.
        token: What the server wants to see, by default from `TOKEN_VARIABLE`.
    """

    deadline_s: float = DEADLINE_S
    max_message_mb: float = MAX_MESSAGE_MB
    ca_file: str | Path | None = None
    token: str | None = dataclasses.field(
        default_factory=lambda: os.environ.get(TOKEN_VARIABLE, "").strip() or None, repr=False
    )

    def __post_init__(self):
        if not 0 < self.deadline_s <= 86_400:
            raise InputError(
                "--deadline must lie above 0 and be at most a day, 86400 seconds, received "
                f"{self.deadline_s}"
            )
        if not 0 < self.max_message_mb < 2048:  # No message of gRPC reaches 2 GiB.
            raise InputError(
                f"--max-message-mb must lie between 0 and 2047, received {self.max_message_mb}"
            )
        if self.token and not (self.token.isascii() and self.token.isprintable()):
            raise InputError(f"{TOKEN_VARIABLE} holds more than a token: use printable characters")

    @property
    def contact_s(self) -> float:
        """Seconds for all servers to say what they serve: `CONTACT_S`, more for a long deadline."""
        return min(self.deadline_s, max(CONTACT_S, self.deadline_s / 30))

    @property
    def authorization(self) -> dict[str, str]:
        """The header, or gRPC metadata, that carries the token."""
        return {"authorization": f"Bearer {self.token}"} if self.token else {}

    def authorities(self) -> bytes | None:
        """Whom to trust, as PEM, for gRPC, which by itself would trust others than HTTPS does.

        None, for gRPC's own, where the system keeps a folder of certificates and no file of them.
        """
        import ssl

        context = self.tls_context()
        if self.ca_file:
            return Path(self.ca_file).read_bytes()
        certificates = context.get_ca_certs(binary_form=True)
        return "".join(map(ssl.DER_cert_to_PEM_cert, certificates)).encode() or None

    def tls_context(self):
        """Whom to trust, as `ssl.SSLContext`: `ca_file`, or the system's authorities.

        Raises:
            InputError: The file cannot be read or holds no certificate.
        """
        import ssl

        try:
            return ssl.create_default_context(cafile=self.ca_file)
        except (OSError, ssl.SSLError) as error:
            raise InputError(
                f"{self.ca_file} cannot be read as certificates ({error.strerror or error}); "
                "give --ca-file a PEM file"
            ) from error
