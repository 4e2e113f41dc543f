"""A run -> a SavedModel in TensorFlow Serving's layout `OUT/N/`."""

import json
from importlib import metadata
from pathlib import Path

import tensorflow as tf

from strokeseg_tf.models.variants import modalities_of
from strokeseg_tf.runs import Run, load_network
from strokeseg_tf.serving.inference import POLICIES, inference_network
from strokeseg_tf.serving.signature import StudyModel
from tfrecord_tools.atomic import new_folder
from tfrecord_tools.errors import InputError

#: What the export is, beside the graph; TensorFlow Serving ignores it.
DESCRIPTION = Path("assets.extra") / "strokeseg_tf.json"


def export(run, out, *, version=None, precision="float32", overwrite=False) -> Path:
    """Export the best weights of a run.

    Args:
        run: Run folder.
        out: Folder of the model's versions.
        version: Number of this version; by default one more than the highest there is.
        precision: See `strokeseg_tf.serving.inference.inference_network`.
        overwrite: Replace a version that is there.

    Returns:
        The folder of the new version, `out/version`.

    Raises:
        InputError: This is no finished run, or the version exists.
    """
    run, out = Run(Path(run)), Path(out)
    config = run.read_config()
    network = load_network(run.model_file)
    if version is None:
        version = max(versions_of(out), default=0) + 1
    if version < 1:
        raise InputError(f"a version is a number from 1, received {version}")
    if precision not in POLICIES:
        raise InputError(f"precision is one of {', '.join(POLICIES)}, received {precision!r}")
    with new_folder(out / str(version), overwrite, marker="saved_model.pb") as folder:
        description = {
            "variant": config.model.variant,
            "modalities": list(modalities_of(network)),
            "threshold": run.read_threshold(),
            "precision": precision,
            "image_size": config.model.image_size,
            "versions": {p: metadata.version(p) for p in ("strokeseg-tf", "tensorflow", "keras")},
            "intended_use": "Research only. Not a medical device.",
        }
        model = StudyModel(
            inference_network(network, precision),
            threshold=description["threshold"],
            description=description,
        )
        tf.saved_model.save(model, str(folder), signatures=model.signatures())
        path = folder / DESCRIPTION
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
    return out / str(version)


def versions_of(folder: Path) -> list[int]:
    """Numbers of the versions in a model's folder."""
    if not folder.is_dir():
        return []
    return sorted(int(p.name) for p in folder.iterdir() if p.is_dir() and p.name.isdigit())
