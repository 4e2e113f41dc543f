"""Kubernetes files against their schemas, for the tests of job files."""

import kubernetes_validate
import pytest
import yaml

KUBERNETES = "1.32"


def read_manifests(path):
    """All documents of a file."""
    return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


def check_manifest(document):
    """It follows the schema of its kind, which refuses a misspelt field."""
    kubernetes_validate.validate(document, KUBERNETES, strict=True)
    document["metadata"]["misspelt"] = 1
    with pytest.raises(kubernetes_validate.ValidationError, match="misspelt"):
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
