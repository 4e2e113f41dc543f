"""Claims: the voxel and lesion scores of a case of 112 x 112 x 73 take under 15 ms, HD95 with ASSD
under 20 ms, and 250 studies are scored from stored predictions in under a minute on two cores.

Times `scores` in turn with what a user would write on numpy and scipy (a comparison of the whole
image for each lesion; distance transforms of the whole image), on phantoms and, where a folder of
studies is named (`python benchmarks/evaluation.py isles22/`), on its masks against DWI above its
99th percentile. Both must give the same numbers; medians and the ratio of medians are printed.
"""

import argparse
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from scipy import ndimage

from strokeseg_tf import scores
from strokeseg_tf.evaluation.scores import SCORE_KEYS
from tfrecord_tools.grid import Grid
from tfrecord_tools.layouts import find_studies
from tfrecord_tools.nifti import read_mask, write_volume
from tfrecord_tools.phantom.cohort import make_phantom
from tfrecord_tools.study import read_study

SURFACE_KEYS = ("hd95_mm", "assd_mm")
OVERLAP_KEYS = tuple(key for key in SCORE_KEYS if key not in SURFACE_KEYS)

#: Keys -> milliseconds that are promised.
PROMISED = {OVERLAP_KEYS: 15, SURFACE_KEYS: 20}

#: Distinct phantoms among the stored studies; each is read again and again.
PHANTOMS = 10


def phantom_cases():
    """Second rater against first: (name, reference, prediction, spacing in mm)."""
    for index in (1, 2, 3):
        study = make_phantom(index, seed=0, group="stroke", matrix=112, slices=(73, 73))
        reference, prediction = study.masks["r1", "dwi"], study.masks["r2", "dwi"]
        yield study.study, reference, prediction, Grid(reference.shape, study.affine).spacing_mm


def real_cases(source):
    """Bright DWI against the reference: (name, reference, prediction, spacing in mm)."""
    for files in find_studies(source):
        study = read_study(files)
        dwi = study.images["dwi"]
        reference = next(mask for key, mask in study.masks.items() if key[1] == "dwi")
        prediction = dwi > np.percentile(dwi[dwi > 0], 99)
        yield study.study, reference, prediction, study.grid.spacing_mm


def plain_overlaps(reference, prediction, spacing):
    """Everything but surfaces, lesion by lesion over the whole image."""
    lesions, count = ndimage.label(reference, np.ones((3, 3, 3)))
    guesses, guessed = ndimage.label(prediction, np.ones((3, 3, 3)))
    both = reference & prediction
    tp = sum((both & (lesions == label)).any() for label in range(1, count + 1))
    fp = sum(not (both & (guesses == label)).any() for label in range(1, guessed + 1))
    voxel_ml = np.prod(spacing) / 1000
    volumes = reference.sum() * voxel_ml, prediction.sum() * voxel_ml
    return {
        "dice": 2 * both.sum() / (reference.sum() + prediction.sum()),
        "precision": both.sum() / prediction.sum(),
        "sensitivity": both.sum() / reference.sum(),
        "absolute_volume_difference_ml": abs(volumes[0] - volumes[1]),
        "lesion_count_difference": abs(count - guessed),
        "lesion_f1": tp / (tp + (fp + count - tp) / 2),
        "reference_volume_ml": volumes[0],
        "predicted_volume_ml": volumes[1],
    }


def plain_surfaces(reference, prediction, spacing):
    """HD95 and ASSD by a distance transform of the whole image from either surface."""
    edges = [mask & ~ndimage.binary_erosion(mask) for mask in (reference, prediction)]
    far = [ndimage.distance_transform_edt(~edge, sampling=spacing) for edge in edges]
    out, back = far[1][edges[0]], far[0][edges[1]]
    return {
        "hd95_mm": max(np.percentile(out, 95), np.percentile(back, 95)),
        "assd_mm": np.concatenate([out, back]).mean(),
    }


PLAIN = {OVERLAP_KEYS: plain_overlaps, SURFACE_KEYS: plain_surfaces}


def timed(function, *arguments, **options):
    """Milliseconds by the clock, and the result."""
    start = time.perf_counter()
    result = function(*arguments, **options)
    return 1000 * (time.perf_counter() - start), result


def compare(cases, count) -> None:
    """Print a row a case and group of scores."""
    print("case  voxels  scores  promised ms  ours ms  plain ms  plain to ours")
    for name, reference, prediction, spacing in cases:
        voxels = f"{reference.sum()}/{prediction.sum()}"
        for keys, promised in PROMISED.items():
            rounds = []
            for _ in range(count):
                ours_ms, ours = timed(scores, reference, prediction, spacing, keys=keys)
                plain_ms, plain = timed(PLAIN[keys], reference, prediction, spacing)
                np.testing.assert_allclose(
                    [ours[key] for key in keys], [plain[key] for key in keys]
                )
                rounds.append((ours_ms, plain_ms))
            ours_ms, plain_ms = map(statistics.median, zip(*rounds, strict=True))
            title = "surfaces" if keys == SURFACE_KEYS else "the rest"
            print(
                f"{name}  {voxels}  {title}  {promised}  {ours_ms:.1f}  {plain_ms:.1f}  "
                f"{plain_ms / ours_ms:.1f}"
            )


def store_study(folder: Path, index: int) -> Path:
    """A phantom of the paper's size: four reference masks and two predictions as NIfTI."""
    study = make_phantom(index, seed=1, group="stroke")
    out = folder / study.study
    out.mkdir()
    grid = Grid(study.adc.shape, study.affine)
    for (rater, modality), mask in study.masks.items():
        write_volume(out / f"{modality}_{rater}.nii.gz", mask, grid)
    for modality in ("adc", "dwi"):
        prediction = np.roll(study.masks["r2", modality], 2, axis=0)
        write_volume(out / f"{modality}_mask.nii.gz", prediction, grid)
    return out


def score_stored(folder: Path) -> tuple[float, float]:
    """Milliseconds of reading a stored study and of scoring it: two modalities, two raters."""
    reading = scoring = 0.0
    for modality in ("adc", "dwi"):
        read_ms, (prediction, grid) = timed(read_mask, folder / f"{modality}_mask.nii.gz")
        reading += read_ms
        for rater in ("r1", "r2"):
            read_ms, (reference, _) = timed(read_mask, folder / f"{modality}_{rater}.nii.gz")
            score_ms, _ = timed(scores, reference, prediction, grid.spacing_mm)
            reading, scoring = reading + read_ms, scoring + score_ms
    return reading, scoring


def score_cohort(studies: int) -> None:
    """Print how long the stored studies take in two processes, their start included."""
    with tempfile.TemporaryDirectory() as name:
        folders = [store_study(Path(name), index) for index in range(1, PHANTOMS + 1)]
        tasks = [folders[number % PHANTOMS] for number in range(studies)]
        start = time.perf_counter()
        with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
            spent = list(pool.map(score_stored, tasks, chunksize=5))
        seconds = time.perf_counter() - start
    reading, scoring = map(statistics.median, zip(*spent, strict=True))
    print(
        f"{studies} stored studies of 256 x 256 x 20-26, 4 pairs of masks each, in two processes: "
        f"{seconds:.1f} s (promised for 250: 60 s); a study takes {reading:.0f} ms to read and "
        f"{scoring:.0f} ms to score"
    )


def main() -> None:
    """Compare on phantoms and on the studies that are named, then score a cohort."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", nargs="?", help="folder of studies, or a CSV table")
    parser.add_argument("--rounds", type=int, default=15, help="how often each is timed")
    parser.add_argument("--studies", type=int, default=250, help="stored studies to score")
    arguments = parser.parse_args()
    compare(phantom_cases(), arguments.rounds)
    if arguments.source:
        compare(real_cases(arguments.source), arguments.rounds)
    score_cohort(arguments.studies)


if __name__ == "__main__":
    main()
