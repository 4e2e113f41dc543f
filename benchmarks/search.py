"""Does a search find something? And how much of its time does it spend on itself?

python benchmarks/search.py find      # phantoms whose lesions are small and faint
python benchmarks/search.py overhead  # a trial's time outside of training and validation
"""

import argparse
import dataclasses
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import strokeseg_tf  # noqa: F401  # First: it says how TensorFlow is to compute.
from strokeseg_tf.config import SMALL
from strokeseg_tf.engine.history import read_history
from strokeseg_tf.loading import load_predictor
from strokeseg_tf.losses import FocalLoss
from strokeseg_tf.runs import Run
from strokeseg_tf.training import fit
from strokeseg_tf.validation import validate
from tfrecord_tools.conversion import convert
from tfrecord_tools.phantom import lesions
from tfrecord_tools.phantom.cohort import (
    draw_groups,
    make_phantom,
    write_phantom_cohort,
    write_phantom_study,
)
from tfrecord_tools.table import TABLE, write_table
from tuning.plan import Plan
from tuning.results import read_results
from tuning.search import search
from tuning.search_space import default_space, searched_config

#: The preset `small`, but for what two cores have no time for: 64 x 64 pixels instead of 112, fewer
#: epochs in `find`.
SIZE = 64
#: Of the trainings that are compared on test studies; those of the search have others.
SEEDS = (0, 1, 2)
SEARCH_SEED = 100


def write_faint_cohort(out: Path, *, studies=125, contrast=0.35, seed=1) -> float:
    """Phantoms with lesions of 1 to 15 ml at a part of their contrast; their share of pixels.

    None is a control, whose Dice is 0 or 1: a few of them would be most of the noise.
    """
    usual, lesions.VOLUME_PERCENTILES_ML = (
        lesions.VOLUME_PERCENTILES_ML,
        (1.0, 6.0, 15.0),
    )
    files, shares = [], []
    for index, group in enumerate(draw_groups(studies, 0, seed=seed), 1):
        options = {"seed": seed, "matrix": SIZE, "slices": (8, 10)}
        study = make_phantom(index, group=group, **options)
        # The same head and the same noise without the lesion.
        healthy = make_phantom(index, group="control", **options)
        blended = {
            m: getattr(healthy, m) + contrast * (getattr(study, m) - getattr(healthy, m))
            for m in ("adc", "dwi")
        }
        shares.append(study.masks["r1", "dwi"].mean())
        files.append(write_phantom_study(out, dataclasses.replace(study, **blended)))
    write_table(out / TABLE, files)
    lesions.VOLUME_PERCENTILES_ML = usual
    return statistics.mean(map(float, shares))


def test_dice(run: Path, shards: Path) -> float:
    """Mean Dice over both heads and the test studies, at native resolution."""
    found = validate(load_predictor(run), FocalLoss(), shards, "test", "r1")
    return (found["val_adc_dice"] + found["val_dwi_dice"]) / 2


def find(work: Path, trials: int, epochs: int, tuner: str) -> None:
    """Search, then train winner and default under seeds it has not seen; judged on test studies."""
    cohort, shards, folder = work / "cohort", work / "shards", work / "search"
    if not shards.is_dir():
        share = write_faint_cohort(cohort)
        print(f"lesions are {share:.2%} of all pixels", flush=True)
        convert(cohort, shards, shares={"train": 0.45, "validation": 0.23, "test": 0.32})
    # Both are judged at the threshold that trials are judged at; one chosen on the validation
    # studies would make up for much of what a loss gets wrong.
    training = {"epochs": epochs, "seed": SEARCH_SEED, "threshold": 0.5}
    base = SMALL.replace(model={"image_size": SIZE}, training=training)
    plan = Plan(searched_config(base), base, default_space(), tuner=tuner)
    outcome = search(shards, folder, plan, trials=trials, resume=True, on_trial=_tell)
    print("winner", json.dumps(outcome["winner"]["values"]), flush=True)
    gains = []
    for seed in SEEDS:
        scores = []
        for name, config in (("default", base), ("winner", outcome["best"])):
            run = work / f"{name}-seed{seed}"
            config = config.replace(training={"seed": seed})
            fit(shards, run, config, resume=True, verbose=0, trial=True)
            scores.append(test_dice(run, shards))
        gains.append(scores[1] - scores[0])
        print(f"seed {seed}: test Dice {scores[0]:.3f} default, {scores[1]:.3f} winner", flush=True)
    print(f"gain on the test studies {', '.join(f'{gain:+.3f}' for gain in gains)}")


def _tell(result) -> None:
    print(result["trial"], result["status"], result["score"], f"{result['seconds']:.0f} s",
          result["values"], flush=True)  # fmt: skip


def tracing(work: Path) -> list[float]:
    """What the first epoch of each trial takes longer than its others: TensorFlow's tracing."""
    histories = [
        [row["seconds"] for row in read_history(Run(path.parent))]
        for path in sorted((work / "search").glob("trial_*/*/history.csv"))
    ]
    return [seconds[0] - statistics.median(seconds[1:]) for seconds in histories]


def overhead(work: Path, trials: int, epochs: int, tuner: str) -> None:
    """Of each trial's wall time, what lies outside of its epochs."""
    cohort, shards = work / "cohort", work / "shards"
    write_phantom_cohort(cohort, studies=24, controls=2, matrix=SIZE, slices=(8, 10))
    convert(cohort, shards, shares={"train": 0.7, "validation": 0.3})
    base = SMALL.replace(
        model={"image_size": SIZE, "filters": [4, 8], "bottleneck": 16}, training={"epochs": epochs}
    )
    plan = Plan(searched_config(base), base, default_space(), tuner=tuner, repeats=0)
    start = time.perf_counter()
    search(shards, work / "search", plan, trials=trials, on_trial=_tell)
    whole = time.perf_counter() - start
    results = read_results(work / "search")
    inside = [sum(t["seconds"] for t in result["trainings"]) for result in results]
    shares = [1 - used / result["seconds"] for used, result in zip(inside, results, strict=True)]
    print(f"{trials} trials of {statistics.median(r['seconds'] for r in results):.0f} s:")
    print(f"outside of epochs, of a trial: {', '.join(f'{share:.1%}' for share in shares)}")
    print(f"first epoch beyond the others: {', '.join(map('{:.1f} s'.format, tracing(work)))}")
    print(f"of the whole search, data and report included: {1 - sum(inside) / whole:.1%}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="?", choices=("find", "overhead"), default="overhead")
    parser.add_argument("--work", type=Path, help="folder to keep and to go on in")
    parser.add_argument("--trials", type=int)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--tuner", default="bayesian")
    arguments = parser.parse_args()
    part, trials, epochs = {"find": (find, 20, 8), "overhead": (overhead, 3, 30)}[arguments.what]
    with tempfile.TemporaryDirectory() as scratch:
        part(
            arguments.work or Path(scratch),
            arguments.trials or trials,
            arguments.epochs or epochs,
            arguments.tuner,
        )
    sys.stdout.flush()
