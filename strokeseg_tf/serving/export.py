"""A run -> a SavedModel in TensorFlow Serving's layout `OUT/N/`."""

import json
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

import tensorflow as tf

from strokeseg_tf.models.variants import modalities_of
from strokeseg_tf.runs import Run, load_network
from strokeseg_tf.serving.card import model_card
from strokeseg_tf.serving.card_page import card_markdown
from strokeseg_tf.serving.inference import inference_network
from strokeseg_tf.serving.layout import (
    CARD,
    CARD_DATA,
    EXTRA,
    SAVED_MODEL,
    versions_of,
    write_description,
)
from strokeseg_tf.serving.precision import PRECISIONS
from strokeseg_tf.serving.signature import StudyModel
from strokeseg_tf.serving.verification import write_example
from strokeseg_tf.serving.warmup import write_warmup
from tfrecord_tools.atomic import flush_folder, new_folder
from tfrecord_tools.errors import InputError
from tfrecord_tools.shards import sha256_of


def export(
    run, out, *, version=None, precision="float32", evaluation=None, overwrite=False
) -> Path:
    """Export the best weights of a run: SavedModel, warm-up requests, example, card, checksums.

    Args:
        run: Run folder.
        out: Folder of the model's versions.
        version: Number of this version; by default one more than the highest there is.
        precision: See `strokeseg_tf.serving.inference.inference_network`.
        evaluation: Folder that `evaluate` wrote for this run, for the model card.
        overwrite: Replace a version that is there.

    Returns:
        The folder of the new version, `out/version`.

    Raises:
        InputError: This is no finished run, the version exists, or the evaluation is of another
            run.
    """
    run, out = Run(Path(run)), Path(out)
    config = run.read_config()
    if version is None:
        version = max(versions_of(out), default=0) + 1
    if version < 1:
        raise InputError(f"a version is a number from 1, received {version}")
    if (out / str(version)).exists() and not overwrite:
        raise InputError(
            f"{out} has a version {version}; choose another --version, or none for the next, or "
            "pass --overwrite"
        )
    if precision not in PRECISIONS:
        raise InputError(f"precision is one of {', '.join(PRECISIONS)}, received {precision!r}")
    network = load_network(run.model_file)
    description = {
        "variant": config.model.variant,
        "modalities": list(modalities_of(network)),
        "threshold": run.read_threshold(),
        "precision": precision,
        "weights_sha256": sha256_of(run.model_file),
        "image_size": config.model.image_size,
        "training_data": run.read_training_data(),
        "versions": {p: metadata.version(p) for p in ("strokeseg-tf", "tensorflow", "keras")},
        "intended_use": "Research only. Not a medical device.",
    }
    card = model_card(run, network, description, evaluation and Path(evaluation))
    with new_folder(out / str(version), overwrite, marker=SAVED_MODEL) as folder:
        model = StudyModel(
            inference_network(network, precision),
            threshold=description["threshold"],
            description=description,
        )
        signatures = model.signatures()
        tf.saved_model.save(model, str(folder), signatures=signatures)
        (folder / EXTRA).mkdir(exist_ok=True)
        write_warmup(folder, signatures)
        write_example(folder, model.modalities)
        _write_card(folder, card)
        # Last: it holds the checksums of all the others.
        write_description(folder, description)
        flush_folder(folder)
    return out / str(version)


def _write_card(folder: Path, card: Mapping) -> None:
    (folder / CARD).write_text(card_markdown(card), encoding="utf-8")
    (folder / CARD_DATA).write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
