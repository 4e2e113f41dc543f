"""A disk that fills up while a network is trained."""

import contextlib
import errno
import shutil
from pathlib import Path

import tensorflow as tf

from tfrecord_tools.errors import InputError

#: A disk with less room than this is full.
ROOM_BYTES = 1 << 16


@contextlib.contextmanager
def telling_of_a_full_disk(folder: Path):
    """Say in one line that there is no room, whoever found it out.

    Args:
        folder: What is being written.

    Raises:
        InputError: The disk is full, or what this user may have of it.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise _no_room(folder, error.strerror) from error
    except tf.errors.OpError as error:
        # TensorBoard's writer says only that it failed.
        if "events" not in str(error) or shutil.disk_usage(folder).free > ROOM_BYTES:
            raise
        raise _no_room(folder, "No space left on device") from error


def _no_room(folder, reason):
    return InputError(
        f"{folder} cannot be written: {reason}; what was kept before stays: make room and go on "
        "with --resume"
    )
