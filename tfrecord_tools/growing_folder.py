"""An output folder to which finished parts are added: what it holds is whole at any time."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from tfrecord_tools.atomic import (
    UNFINISHED,
    check_free,
    locked,
    remove_whole,
    replace_output,
    work_folder,
    write_text,
)


class GrowingFolder:
    """See `growing_folder`, which makes it."""

    def __init__(self, out: Path, work: Path, marker: str, exists: bool):
        self._out, self._work, self._marker, self._exists = out, work, marker, exists

    def new_part(self, name: str) -> Path:
        """An empty folder for the files of a part, by a name that no other part has."""
        part = self._work / UNFINISHED / name
        part.mkdir(parents=True)
        return part

    def add(self, part: Path, account: str) -> None:
        """Move the files of a part into the output; those of the same names are replaced.

        Args:
            part: What `new_part` gave, with files.
            account: The new content of the marker, which is written last: a part that it does not
                name may be there by half.
        """
        if not self._exists:
            write_text(part / self._marker, account)
            replace_output(part, self._out)
            self._exists = True
            return
        for path in part.iterdir():
            os.replace(path, self._out / path.name)
        write_text(self._out / self._marker, account)

    def close(self, account: str) -> None:
        """Write the marker's last content, where anything was added at all."""
        if self._exists:
            write_text(self._out / self._marker, account)


@contextlib.contextmanager
def growing_folder(
    out: str | Path, overwrite: bool = False, *, marker: str, resume: bool = False
) -> Iterator[GrowingFolder]:
    """A folder that grows part by part, so that an interruption leaves what was finished.

    It appears with its first part. What stood there before is replaced only then.

    Args:
        out: See `tfrecord_tools.atomic.check_free`, as for the next two.
        overwrite: Whether an earlier output may be replaced.
        marker: The file that says what the folder holds.
        resume: Add to an earlier output instead, where there is one.

    Raises:
        InputError: `out` must not be replaced, or another process is at it.
    """
    out, work = Path(os.path.abspath(out)), work_folder(out)
    exists = resume and (out / marker).is_file()
    if not exists:
        check_free(out, overwrite, marker=marker)
    work.mkdir(parents=True, exist_ok=True)
    with locked(work, out):
        shutil.rmtree(work / UNFINISHED, ignore_errors=True)  # Of a process that was killed.
        try:
            yield GrowingFolder(out, work, marker, exists)
        finally:
            remove_whole(work)
