"""Ctrl-C that ends the process soon, whatever library is at work."""

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def prompt_interruption(seconds: float = 3.0) -> Iterator[None]:
    """End with status 130 if the block is still there some seconds after Ctrl-C.

    Python raises `KeyboardInterrupt` between two of its own instructions; a step of a large network
    is one that may take minutes. What is on disk is whole at any time.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    left = threading.Event()
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)

    def watch():
        while number := reader.recv(1):
            if number[0] == signal.SIGINT and not left.wait(seconds):
                os.write(2, b"strokeseg-tf: interrupted; what was finished is kept\n")
                os._exit(130)

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        left.set()
        signal.set_wakeup_fd(before)
        writer.close()
