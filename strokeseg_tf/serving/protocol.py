"""What the client says and hears, whichever protocol carries it."""

import dataclasses
import enum
from collections.abc import Mapping

from tfrecord_tools.study_files import MODALITIES


class Kind(enum.Enum):
    """Why a server gave no result."""

    UNAVAILABLE = "nobody answers, or the server is busy: it may answer later"
    NOT_FOUND = "no such model or version there"
    TOO_LARGE = "the message is larger than someone on the way takes"
    INVALID = "the graph or the server refused what was sent"
    DENIED = "a token is missing or refused"
    LATE = "the time for an answer is over"
    TLS = "no secure connection"
    PROTOCOL = "something else is spoken on that port"
    FOREIGN = "the model there is none of ours"
    FAILED = "anything else: the server's fault"


class Refusal(Exception):
    """An answer that is no result.

    Attributes:
        kind: Why.
        text: What was said, in one line.
        server: Who said it, or None where nothing was sent.
        waited_s: How long for an answer that did not come.
    """

    def __init__(self, kind: Kind, text: str):
        super().__init__(text)
        self.kind, self.text = kind, " ".join(text.split())
        self.server = None
        self.waited_s = 0.0


@dataclasses.dataclass(frozen=True)
class Request:
    """A request ready to be sent to any of a model's servers.

    Attributes:
        content: What the protocol sends.
        size: Its length in bytes.
        outputs: Names of the tensors that are expected.
    """

    content: object
    size: int
    outputs: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class ServedModel:
    """What a server says of a model.

    Attributes:
        version: The version that answers.
        modalities: The modalities it takes, in their fixed order.
        signatures: Names of its signatures.
        image_size: Height and width of the slices that `preprocessed` takes, or None.
        threshold: Probability above which a voxel is lesion; like what follows from its
            description, and None where it has none or an older one.
        precision: The export's arithmetic.
        weights_sha256: Checksum of the weights that were exported.
        training_data: See `strokeseg_tf.prediction.familiarity.summarise`.
    """

    version: int
    modalities: tuple[str, ...]
    signatures: frozenset[str]
    image_size: int | None
    threshold: float | None = None
    precision: str | None = None
    weights_sha256: str | None = None
    training_data: Mapping | None = None

    @classmethod
    def from_signatures(cls, version, signatures: Mapping) -> "ServedModel":
        """From TensorFlow's `SignatureDef` by name.

        Raises:
            Refusal: They are not those of an export.
        """
        if "serving_default" not in signatures:
            raise Refusal(Kind.FOREIGN, "it has no signature serving_default")
        inputs = set(signatures["serving_default"].inputs)
        outputs = set(signatures["serving_default"].outputs)
        modalities = tuple(m for m in MODALITIES if m in inputs)
        if not modalities or inputs != set(modalities):
            raise Refusal(Kind.FOREIGN, f"it takes {', '.join(sorted(inputs))}")
        if outputs != {f"{m}_probability" for m in modalities}:
            raise Refusal(Kind.FOREIGN, f"it gives {', '.join(sorted(outputs))}")
        size = None
        if "preprocessed" in signatures:
            shape = signatures["preprocessed"].inputs[modalities[0]].tensor_shape
            size = shape.dim[1].size
        return cls(version, modalities, frozenset(signatures), size)

    def with_facts(self, description: Mapping) -> "ServedModel":
        """The same with what the model's description says."""
        return dataclasses.replace(
            self,
            threshold=description["threshold"],
            precision=description.get("precision"),
            weights_sha256=description.get("weights_sha256"),
            training_data=description.get("training_data"),
        )
