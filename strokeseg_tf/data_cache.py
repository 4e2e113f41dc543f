"""What runs on the same shards share in one process: data is read and preprocessed once."""

from strokeseg_tf.pipeline import Slices, load_slices
from strokeseg_tf.validation import PreparedStudies


class DataCache:
    """Preprocessed slices and studies of one shards folder, kept from run to run.

    Args:
        shards: A finished shards folder.
    """

    def __init__(self, shards):
        self.shards = shards
        self._kept = {}

    def slices(self, split, *, modalities, rater, size) -> Slices:
        """`load_slices` of a split; nobody may write into them."""
        key = "slices", split, modalities, rater, size
        if key not in self._kept:
            wanted = {"modalities": modalities, "rater": rater, "size": size}
            self._kept[key] = load_slices(self.shards, split, **wanted)
        return self._kept[key]

    def studies(self, predictor, split, rater) -> PreparedStudies:
        """`PreparedStudies` of a split for any predictor of these modalities and this size."""
        key = "studies", split, tuple(predictor.modalities), rater, predictor.size
        if key not in self._kept:
            self._kept[key] = PreparedStudies(predictor, self.shards, split, rater)
        return self._kept[key]
