"""A server's refusal -> the sentence that says what to do."""

import re

from strokeseg_tf.serving.connection import TOKEN_VARIABLE, Connection
from strokeseg_tf.serving.endpoint import Endpoint
from strokeseg_tf.serving.protocol import Kind, Refusal
from tfrecord_tools.errors import InputError


def explain(refusal: Refusal, endpoint: Endpoint, connection: Connection, version) -> InputError:
    """What a refusal means for the user.

    Args:
        refusal: What came instead of a result.
        endpoint: The model that was asked.
        connection: Settings; the token is not shown.
        version: The version that was asked for, or None for the latest.
    """
    if refusal.kind is Kind.NOT_FOUND:
        return InputError(_not_found(refusal.server, endpoint.model, version, connection.contact_s))
    text = _without_graph(refusal.text)
    if refusal.server is None:
        return InputError(f"one slice is too large to be sent: {text}")
    host = refusal.server.address
    token = f"put its token in the environment variable {TOKEN_VARIABLE}"
    if connection.token:
        token = f"the token in {TOKEN_VARIABLE} is not one that it knows"
    sentences = {
        Kind.TOO_LARGE: f"{host} takes no message as large as one slice ({text}); raise its limit",
        Kind.INVALID: f"{host} refused the study: {text}",
        Kind.DENIED: f"{host} refused access ({text}); {token}",
        Kind.LATE: f"{host} did not answer within {refusal.waited_s:.1f} s; raise --deadline, "
        "or see whether the server is overloaded",
        Kind.TLS: f"no secure connection to {host} ({text}); give the certificate of its "
        "authority with --ca-file, or check that the port speaks TLS",
        Kind.PROTOCOL: f"{host} does not speak {endpoint.protocol} ({text}); TensorFlow Serving "
        "has gRPC on port 8500 and REST on 8501",
        Kind.FOREIGN: f"{endpoint} is no model that strokeseg-tf export wrote: {text}; name "
        "another model",
        Kind.FAILED: f"{host} failed ({text}); see the server's log",
    }
    return InputError(sentences[refusal.kind])


def _not_found(server, name, version, within_s) -> str:
    """Asks the server what it has instead."""
    try:
        versions = server.versions(within_s)
    except Refusal as refusal:
        if refusal.kind is Kind.NOT_FOUND:
            return f"{server.address} serves no model named {name}; check the name"
        return f"{server.address} does not find {name}, nor say what it has ({refusal.text})"
    if version is None:
        return f"{server.address} has no version of {name} ready; try again later"
    there = f"has {', '.join(map(str, versions))}" if versions else "has none ready"
    return (
        f"version {version} of {name} is not at {server.address}, which {there}; name another, "
        "or none for the latest"
    )


def _without_graph(text) -> str:
    """An error of the graph without the names of its nodes."""
    text = text.partition("[[{{node")[0].replace("Graph execution error:", "")
    assertion = re.search(r"assertion failed: \[(.*?)\]", text)
    return " ".join((assertion[1] if assertion else text).split())[:200]
