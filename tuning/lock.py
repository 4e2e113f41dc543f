"""One chief, or one whole search, in a folder at a time."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from tfrecord_tools.errors import InputError

try:
    import fcntl
except ImportError:  # Windows, where nothing keeps two searches out of one folder.
    fcntl = None

#: Names the folder that the parent of this process has locked for it.
LOCKED = "STROKESEG_TF_LOCKED_SEARCH"


@contextlib.contextmanager
def search_lock(folder: Path) -> Iterator[None]:
    """Keep other searches out; the lock falls with the process, however it ends.

    Raises:
        InputError: Another process searches there.
    """
    if os.environ.get(LOCKED) == str(folder):
        yield
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Beside the folder, which is replaced as a whole.
    with open(folder.with_name(f".{folder.name}.lock"), "a") as file:
        try:
            if fcntl:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(
                f"{folder} is being searched by another process; wait for it or choose another "
                "--run"
            ) from error
        except OSError:  # A file system without locks.
            pass
        yield
