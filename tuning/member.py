"""`python -m tuning.member`: a chief or worker that `tuning.local_job` has started."""

import os
import signal
import sys
import threading

from strokeseg_tf.cli import main


def end_with_parent() -> None:
    """End this process when the one that started it does, however that ends.

    Its standard input is a pipe that only the parent holds open.
    """

    def watch():
        # Not sys.stdin: its lock, held at the end of the interpreter, would abort it.
        os.read(0, 1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    # Ctrl-C in a terminal reaches all of its processes; this one leaves it to the parent.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    sys.exit(main())
