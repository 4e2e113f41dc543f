"""Output that appears whole or not at all."""

import contextlib
import glob
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from tfrecord_tools.errors import InputError
from tfrecord_tools.names import file_name

try:
    import fcntl
except ImportError:  # Windows, where nothing keeps two processes out of one work folder.
    fcntl = None

#: What stands in a work folder: the output to be, what it replaces, half-written files, the lock.
NEW, OLD, UNFINISHED, LOCK = "new", "old", "unfinished", "lock"


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
        replace_output(partial, out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def flush_folder(folder: Path) -> None:
    """Have what lies in a folder on the disk: a power cut after its renaming leaves it whole."""
    if os.name != "posix":  # Elsewhere only who writes a file can flush it.
        return
    for path in (folder, *folder.rglob("*")):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def work_folder(out: str | Path) -> Path:
    """Where the output `out` is made by `resumable_folder`."""
    out = Path(os.path.abspath(out))
    return out.with_name(f".{file_name(out.name)}.partial")


@contextlib.contextmanager
def resumable_folder(
    out: str | Path,
    overwrite: bool = False,
    *,
    marker: str,
    publish: Callable[[Path], None] | None = None,
) -> Iterator[Path]:
    """A work folder that outlives an interruption; its subfolder `NEW` becomes `out` at the end.

    The block finds in it what an earlier block finished, and writes what is not finished in the
    subfolder `UNFINISHED`. What stood at `out` is replaced only in the last moment. After an
    `InputError` the work folder vanishes, unless an earlier block has left something in it; after
    anything else (a kill, Ctrl-C, a full disk) it stays, unless nothing in it is finished.

    Args:
        out: See `check_free`, as for the next two.
        overwrite: Whether an earlier output may be replaced.
        marker: Name of a file that every output of this kind holds.
        publish: Called with the work folder when the block has ended well, to bring `NEW` to
            where it belongs, if that is not `out`; where it fails, the work folder stays.

    Raises:
        InputError: `out` must not be replaced, or another process is at it.
    """
    out, work = Path(os.path.abspath(out)), work_folder(out)
    _tidy(work, out)
    check_free(out, overwrite, marker=marker)
    work.mkdir(parents=True, exist_ok=True)
    with locked(work, out):
        resumed = _holds_anything(work)
        try:
            (work / NEW).mkdir(exist_ok=True)
            shutil.rmtree(work / UNFINISHED, ignore_errors=True)
            (work / UNFINISHED).mkdir()
            yield work
        except InputError as error:
            if not resumed:
                remove_whole(work)
                raise
            raise InputError(f"{error}; what was finished before is kept in {work}") from error
        except BaseException:
            shutil.rmtree(work / UNFINISHED, ignore_errors=True)
            if not _holds_anything(work):
                remove_whole(work)
            raise
        if publish:
            publish(work)
        else:
            _move_into_place(work, out)
        remove_whole(work)


def _holds_anything(work: Path) -> bool:
    return any(path.is_file() and path.name != LOCK for path in work.rglob("*"))


def _move_into_place(work: Path, out: Path) -> None:
    if out.exists():
        os.replace(out, work / OLD)
    try:
        os.replace(work / NEW, out)
    except BaseException:
        if (work / OLD).exists():
            os.replace(work / OLD, out)
        raise


def _tidy(work: Path, out: Path) -> None:
    """Finish what a kill in the last moments of `resumable_folder` left."""
    for removed in work.parent.glob(f"{glob.escape(work.name)}.*.removed"):
        shutil.rmtree(removed, ignore_errors=True)
    if not work.is_dir():
        return
    with locked(work, out):
        if (work / OLD).exists() and not out.exists():
            os.replace(work / OLD, out)
        elif not (work / NEW).exists():  # It has become the output.
            remove_whole(work)


def remove_whole(work: Path) -> None:
    """Remove a work folder; renamed first, so that nobody takes up the half of it."""
    removed = work.with_name(f"{work.name}.{os.getpid()}.removed")
    os.replace(work, removed)
    shutil.rmtree(removed, ignore_errors=True)


@contextlib.contextmanager
def locked(work: Path, out: Path) -> Iterator[None]:
    """Keep other processes out; the lock falls with the process, however it ends."""
    with open(work / LOCK, "a") as file:
        try:
            if fcntl:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            free = os.path.samestat(os.fstat(file.fileno()), os.stat(work / LOCK))
        except (BlockingIOError, FileNotFoundError):
            free = False
        except OSError:  # A file system without locks.
            free = True
        if not free:
            raise InputError(
                f"{out} is being written by another process; wait for it or choose another name"
            )
        yield


def replace_output(partial: Path, out: Path) -> None:
    """Rename a finished folder to `out`; what stood there goes in the same moment."""
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


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """A file that becomes `path` when the block ends well, and vanishes when it does not."""
    # Its own name for each writer: the workers of a killed process may live a moment longer, and
    # of the containers that share a volume every process may be number 1.
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        with open(partial, "wb") as file:
            yield file
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write a file beside its place, then rename it into it."""
    with new_file(path) as file:
        file.write(text.encode())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
