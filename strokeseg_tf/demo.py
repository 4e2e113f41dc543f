"""The demo: synth, convert, fit, evaluate, predict, export, as a user would type them."""

import os
import shlex
import time
from pathlib import Path

from strokeseg_tf.cli import build_parser
from strokeseg_tf.console import remark
from tfrecord_tools.atomic import new_folder

#: As many phantoms and epochs as two good cores get through in under five minutes. The matrix is
#: the preset's own size: nothing is resized, and 256 would take five times as long to make.
STUDIES, CONTROLS, MATRIX, EPOCHS = 130, 11, 112, 6
SPLIT = "train=0.75,validation=0.1,test=0.15"


def demo_commands(seed: int) -> list[str]:
    """The commands, with paths relative to the demo's folder."""
    jobs = os.cpu_count() or 1
    cohort = f"--studies {STUDIES} --controls {CONTROLS} --matrix {MATRIX}"
    return [
        f"synth cohort {cohort} --seed {seed} --jobs {jobs}",
        f"convert cohort shards --split {SPLIT} --seed {seed} --jobs {jobs}",
        f"fit shards --run run --preset small --epochs {EPOCHS} --seed {seed}",
        "evaluate run --data shards -o evaluation",
        "predict run cohort/phantom-001 -o predictions",
        "export run served --evaluation evaluation",
    ]


def run_demo(out: str | Path, *, seed: int = 0, overwrite: bool = False) -> Path:
    """Run the whole chain on a phantom cohort.

    Args:
        out: Folder to write; it appears whole or not at all.
        seed: Of the cohort, the splits and the training.
        overwrite: Replace `out` if it exists.

    Returns:
        The report, `out/evaluation/report.html`.
    """
    started = time.perf_counter()
    out = Path(out).resolve()
    with new_folder(out, overwrite, marker="cohort") as folder:
        before = Path.cwd()
        os.chdir(folder)
        try:
            for command in demo_commands(seed):
                remark(f"$ strokeseg-tf {command}")
                arguments = build_parser().parse_args(shlex.split(command))
                arguments.run(arguments)
        finally:
            os.chdir(before)
    report = out / "evaluation" / "report.html"
    remark(f"done in {time.perf_counter() - started:.0f} s; phantom data: no claim of accuracy")
    print(f"report: {report}")
    return report
