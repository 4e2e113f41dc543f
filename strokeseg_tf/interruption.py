"""How a command is stopped: every polite way is Ctrl-C, and Ctrl-C is heard soon."""

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator

#: A polite kill, and the end of the terminal that the command runs in.
SIGNALS = ("SIGTERM", "SIGHUP")


@contextlib.contextmanager
def stopped_alike() -> Iterator[None]:
    """Turn polite kills into `KeyboardInterrupt` while the block runs: `finally` is heard then.

    Elsewhere than in the main thread, where signals are not heard, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    names = [getattr(signal, name) for name in SIGNALS if hasattr(signal, name)]
    # One that is ignored, as SIGHUP under nohup, stays so.
    before = {name: signal.getsignal(name) for name in names}
    heard = [name for name in names if before[name] == signal.SIG_DFL]
    for name in heard:
        signal.signal(name, signal.default_int_handler)
    try:
        yield
    finally:
        for name in heard:
            signal.signal(name, before[name])


@contextlib.contextmanager
def prompt_interruption(
    seconds: float = 3.0, last: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """End with status 130 if the block is still there some seconds after Ctrl-C.

    Python raises `KeyboardInterrupt` between two of its own instructions; a step of a large network
    is one that may take minutes. What is on disk is whole at any time.

    Args:
        seconds: How long the block has to end by itself.
        last: Called before the process ends, in another thread than the block's.
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
                try:
                    last()
                finally:  # Whatever becomes of it, who pressed Ctrl-C waits no longer.
                    os._exit(130)

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        left.set()
        signal.set_wakeup_fd(before)
        writer.close()
