"""What a server is asked before it gets studies: what it serves, and whether the others do, too."""

import time

from strokeseg_tf.serving.layout import parse_description
from strokeseg_tf.serving.protocol import Kind, Refusal, ServedModel
from tfrecord_tools.errors import InputError

#: What is told of two models that differ.
_FACTS = ("precision", "threshold", "weights_sha256")


class Greeting:
    """Asks a server what it serves, and refuses what the first server that answered does not.

    Servers that hold different exports under one version number would be mixed within a cohort,
    and nobody would see it in the masks.

    Args:
        name: The model's name on the servers.
        version: The version asked for, or None for the one that the first server answers with.

    Attributes:
        model: `ServedModel` of the first server; None before it answered.
        version: The version that all servers are asked for from then on.
    """

    def __init__(self, name: str, version: int | None):
        self._name, self.version = name, version
        self.model, self._first = None, None

    def __call__(self, server, within_s: float) -> None:
        """Greet a server.

        Raises:
            Refusal: It does not answer in time, or not with a model of ours.
            InputError: It serves another model than the first one.
        """
        model = _served_by(server, self.version, within_s)
        if self.model is None:
            self.model, self.version, self._first = model, model.version, server.address
        elif model != self.model:
            raise InputError(
                f"{server.address} and {self._first} serve different models as version "
                f"{self.version} of {self._name} ({_differences(model, self.model)}); let all "
                "servers serve one export, or name one server"
            )


def _served_by(server, version, within_s) -> ServedModel:
    end = time.monotonic() + within_s
    model = server.describe(version, within_s)
    if "description" not in model.signatures:
        return model
    request = server.encode("description", {"request": ""}, ["description"], model.version)
    answer = server.predict(request, max(end - time.monotonic(), 0.1))
    try:
        return model.with_facts(parse_description(answer["description"].item()))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise Refusal(Kind.FOREIGN, f"its description cannot be read ({error!r})") from error


def _differences(model, first) -> str:
    facts = [
        f"{fact} {str(mine)[:12]} and {str(theirs)[:12]}"
        for fact in _FACTS
        if (mine := getattr(model, fact)) != (theirs := getattr(first, fact))
    ]
    return ", ".join(facts) or "their signatures differ"
