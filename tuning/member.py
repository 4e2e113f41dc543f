"""What a chief or worker does that `tuning.local_job` has started."""

import os
import signal
import threading
import time

from tuning.lock import LOCKED

#: Seconds that a process has to end by itself.
GRACE_SECONDS = 2.0


def follow_parent() -> None:
    """Have this process end with the one that started it, however that ends, and not before.

    Its standard input is a pipe that only the parent holds open. Ctrl-C in a terminal reaches all
    processes there; this one leaves it to the parent. Outside of a local job nothing happens.
    """
    if LOCKED not in os.environ:
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch():
        # Not sys.stdin: its lock, held at the end of the interpreter, would abort it.
        os.read(0, 1)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
