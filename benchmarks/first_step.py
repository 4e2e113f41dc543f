"""Claim: training starts soon: under 10 s from typing `fit` with `small`, 20 s with the full size.

Starts the command on a terminal of its own, as many times as asked, each in a fresh process, and
reads its progress bar: the time until it shows a finished step, and the time between later steps.
Without SHARDS, the demo's cohort is made first.
"""

import argparse
import os
import pty
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from strokeseg_tf.demo import demo_commands

#: How far to watch a run.
STEPS = 6


def main():
    """Start it, again and again."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shards", nargs="?", type=Path, help="shards folder")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--options", default="--preset small", help="of `fit`")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        shards = options.shards.resolve() if options.shards else make_shards(scratch)
        firsts = []
        for number in range(options.repeats):
            command = ["fit", str(shards), "--run", f"run{number}", *options.options.split()]
            first, step = watch(command, scratch)
            firsts.append(first)
            print(f"first step after {first:.1f} s, later ones {step:.2f} s each", flush=True)
        print(f"median {statistics.median(firsts):.1f} s")


def make_shards(folder) -> Path:
    """The demo's."""
    for command in demo_commands(seed=0)[:2]:
        subprocess.run([*STROKESEG, *command.split()], cwd=folder, check=True, capture_output=True)
    return Path(folder) / "shards"


STROKESEG = (sys.executable, "-c", "from strokeseg_tf.cli import main; main()")


def watch(command, folder):
    """Seconds until the first step is shown, and between the steps after it."""
    ours, theirs = pty.openpty()
    start = time.perf_counter()
    process = subprocess.Popen([*STROKESEG, *command], cwd=folder, stdout=theirs, stderr=theirs)
    os.close(theirs)
    text, shown = "", {}
    try:
        while len(shown) < STEPS:
            text += os.read(ours, 4096).decode(errors="replace")
            for step in re.findall(r"(?<!Epoch )\b(\d+)/\d+", text):
                shown.setdefault(int(step), time.perf_counter() - start)
    except OSError:  # It has ended.
        sys.exit(f"{' '.join(command)} failed:\n{text}")
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    times = [seconds for step, seconds in sorted(shown.items()) if step]
    return times[0], (times[-1] - times[0]) / (len(times) - 1)


if __name__ == "__main__":
    main()
