"""The probability above which a voxel is lesion, chosen on validation studies."""

import numpy as np

from strokeseg_tf.pipeline import usable_studies
from strokeseg_tf.validation import dice
from tfrecord_tools.reader import read_studies

#: The probabilities that are tried.
CANDIDATES = tuple(round(0.05 * step, 2) for step in range(1, 20))


def choose_threshold(predictor, folder, split, rater):
    """Find the threshold with the best Dice at native resolution.

    Args:
        predictor: `strokeseg_tf.prediction.network.NetworkPredictor`.
        folder: A finished shards folder.
        split: Name of the split that decides.
        rater: Whose masks are the reference.

    Returns:
        `{"threshold": ..., "split": ..., "rater": ..., "dice": {candidate: ...}}`, where the Dice
        is the mean over the heads of the mean over studies; of equals the one nearest 0.5 wins.
    """
    usable = set(usable_studies(folder, split, predictor.modalities, rater)[0])
    curves = []
    for study in read_studies(folder, split):
        if study.study in usable:
            for modality, probability in predictor.predict(study.images).items():
                reference = study.masks[rater, modality]
                curves.append([dice(reference, probability > t) for t in CANDIDATES])
    means = np.mean(curves, axis=0)
    best = max(zip(CANDIDATES, means, strict=True), key=lambda c: (c[1], -abs(c[0] - 0.5)))
    return {
        "threshold": best[0],
        "split": split,
        "rater": rater,
        "dice": dict(zip(map(str, CANDIDATES), means.tolist(), strict=True)),
    }
