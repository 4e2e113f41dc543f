"""Output that appears whole or not at all."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tfrecord_tools.errors import InputError


def check_free(out: str | Path, overwrite: bool = False, *, marker: str) -> Path:
    """Refuse an output that exists; an empty folder does not count.

    Args:
        out: File or folder to write.
        overwrite: Whether an earlier output may be replaced.
        marker: Name of a file that every output of this kind holds: nothing else is ever
            replaced, whatever a user has typed.

    Raises:
        InputError: It exists and must not be replaced.
    """
    out = Path(out)
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return out
    if not overwrite:
        raise InputError(f"{out} exists; choose another name or pass --overwrite")
    if not (out / marker).exists():
        raise InputError(
            f"{out} is not replaced: it has no {marker}, so it is no earlier output of this "
            "command; choose another name"
        )
    return out


@contextlib.contextmanager
def new_folder(out: str | Path, overwrite: bool = False, *, marker: str) -> Iterator[Path]:
    """A folder that becomes `out` when the block ends well, and vanishes when it does not.

    What stood at `out` is replaced only in the last moment. See `check_free` for the arguments.
    """
    out = Path(os.path.abspath(check_free(out, overwrite, marker=marker)))
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = _beside(out, ".partial")
    try:
        partial.chmod(0o777 & ~_umask())
        yield partial
        _replace(partial, out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _replace(partial: Path, out: Path) -> None:
    if not out.exists():
        os.replace(partial, out)
        return
    old = _beside(out, ".old")
    try:
        os.replace(out, old / "old")
        os.replace(partial, out)
    except BaseException:
        if not out.exists():
            os.replace(old / "old", out)
        raise
    finally:
        if out.exists():
            shutil.rmtree(old, ignore_errors=True)


def _beside(out: Path, suffix: str) -> Path:
    """A new folder next to `out`, so that renaming it is one step."""
    return Path(tempfile.mkdtemp(prefix=f".{out.name[:40]}.", suffix=suffix, dir=out.parent))


def write_text(path: Path, text: str) -> None:
    """Write a file beside its place, then rename it into it."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
