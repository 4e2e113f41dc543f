"""Where an export keeps its files: `OUT/N/` as TensorFlow Serving wants it."""

import json
import re
from pathlib import Path

from strokeseg_tf.prediction.familiarity import check_ranges
from tfrecord_tools.errors import InputError
from tfrecord_tools.shards import sha256_of

SAVED_MODEL = "saved_model.pb"
#: TensorFlow Serving ignores this folder, but for the warm-up requests in it.
EXTRA = Path("assets.extra")
#: What the export is, and the sha256 of every other file.
DESCRIPTION = EXTRA / "strokeseg_tf.json"
#: Read by TensorFlow Serving when it loads the version.
WARMUP = EXTRA / "tf_serving_warmup_requests"
#: A phantom, and the probabilities that the export gave when it was written.
EXAMPLE = EXTRA / "example.npz"
CARD, CARD_DATA = "MODEL_CARD.md", "model_card.json"


def versions_of(folder: Path) -> list[int]:
    """Numbers of the versions in a model's folder."""
    if not folder.is_dir():
        return []
    names = (p.name for p in folder.iterdir() if p.is_dir())
    return sorted(int(name) for name in names if re.fullmatch("[1-9][0-9]*", name))


def version_folder(export: str | Path) -> Path:
    """The folder of a version: `export` itself, or the highest in it.

    Raises:
        InputError: It is neither.
    """
    export = Path(export)
    if (export / SAVED_MODEL).exists() or (export / DESCRIPTION).exists():
        return export
    if versions := versions_of(export):
        return export / str(versions[-1])
    raise InputError(
        f"{export} is no export (no {SAVED_MODEL}, and no versions); "
        "name a folder that strokeseg-tf export wrote"
    )


def read_description(folder: Path) -> dict:
    """What an export says of itself.

    Raises:
        InputError: It says nothing, or the file is damaged.
    """
    path = folder / DESCRIPTION
    try:
        return parse_description(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(
            f"{folder} has no {DESCRIPTION}; name a folder that strokeseg-tf export wrote"
        ) from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{path} is damaged ({error!r}); export the run anew") from error


def parse_description(text: str) -> dict:
    """A description from its JSON.

    Raises:
        ValueError, TypeError, KeyError, AttributeError: It is none, its threshold no probability,
            or its training data are damaged.
    """
    description = json.loads(text)
    if not 0 < description["threshold"] < 1:
        raise ValueError(f"{description['threshold']} is no probability")
    if description.get("training_data") is not None:
        check_ranges(description["training_data"])
    return description


def write_description(folder: Path, description: dict) -> None:
    """Write what an export says of itself, with the checksums of all its other files."""
    content = description | {"files": {name: sha256_of(folder / name) for name in files_of(folder)}}
    (folder / DESCRIPTION).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def files_of(folder: Path) -> list[str]:
    """All files of a version but its description, as paths with `/` relative to it."""
    paths = (p for p in folder.rglob("*") if p.is_symlink() or not p.is_dir())
    return sorted({p.relative_to(folder).as_posix() for p in paths} - {DESCRIPTION.as_posix()})


def file_differences(folder: Path, files: dict[str, str]) -> list[str]:
    """What of a version is not as its checksums say, a few words for each file."""
    present = files_of(folder)
    changed = [
        name
        for name in present
        if name in files
        and not ((folder / name).is_file() and sha256_of(folder / name) == files[name])
    ]
    return [
        *(f"missing: {name}" for name in sorted(set(files) - set(present))),
        *(f"changed: {name}" for name in changed),
        *(f"additional: {name}" for name in present if name not in files),
    ]
