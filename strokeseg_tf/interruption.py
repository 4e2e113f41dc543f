"""Every way to ask a command to stop is answered as Ctrl-C is: it tidies up, then ends."""

import contextlib
import signal
import threading
from collections.abc import Iterator

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
