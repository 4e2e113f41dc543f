"""What TensorBoard shows of a run: curves, and outlines on validation slices."""

import keras
import numpy as np
from scipy import ndimage

#: How many studies are shown, and about how often in a training.
STUDIES, PICTURES = 4, 10
REFERENCE, PREDICTION = (0, 255, 0), (255, 0, 0)


class TensorBoardLogs(keras.callbacks.Callback):
    """Writes the figures of every epoch, and pictures of some.

    The figures are called as Keras's own callback calls them, which spends on every step what an
    epoch needs once. A picture is the slice with most lesion of a validation study, with the
    outlines of the rater's mask in green and of ours in red.

    Args:
        predictor: `strokeseg_tf.prediction.network.NetworkPredictor` of the trained model.
        studies: `strokeseg_tf.validation.PreparedStudies`.
        folder: Folder of the logs.
        epochs: Epochs in all: some have no pictures where they are many.
    """

    def __init__(self, predictor, studies, folder, epochs):
        super().__init__()
        self._predictor = predictor
        self._studies = studies
        self._folder = folder
        self._every = max(1, epochs // PICTURES)
        self._shown = None
        self._writers = {}

    def on_epoch_end(self, epoch, logs=None):
        import tensorflow as tf

        for name, value in logs.items():
            part = "validation" if name.startswith("val_") else "train"
            with self._writer(part).as_default(step=epoch):
                tf.summary.scalar(f"epoch_{name.removeprefix('val_')}", value)
        if epoch % self._every == 0:
            with self._writer("overlays").as_default(step=epoch):
                for modality, pictures in self._pictures().items():
                    tf.summary.image(f"validation_{modality}", pictures, max_outputs=STUDIES)
        for writer in self._writers.values():
            writer.flush()

    def on_train_end(self, logs=None):
        for writer in self._writers.values():
            writer.close()

    def _writer(self, part):
        import tensorflow as tf

        if part not in self._writers:
            self._writers[part] = tf.summary.create_file_writer(str(self._folder / part))
        return self._writers[part]

    def _pictures(self) -> dict[str, np.ndarray]:
        """uint8 `(pictures, height, width, 3)` by modality."""
        if self._shown is None:
            self._shown = _choose(self._studies, self._predictor.modalities)
        if not self._shown:
            return {}
        cut = np.log(self._predictor.threshold / (1 - self._predictor.threshold))
        inputs = {m: np.stack([image[m] for image, _ in self._shown]) for m in self._shown[0][0]}
        logits = self._predictor.logits(inputs)
        # Stacked: of a list TensorFlow converts number by number.
        return {
            m: np.stack(
                [
                    overlay(image[m][..., 0], mask[m][..., 0], values[..., 0] > cut)
                    for (image, mask), values in zip(self._shown, logits[m], strict=True)
                ]
            )
            for m in inputs
        }


def _choose(studies, modalities) -> list:
    """`(inputs, masks)` by modality of one slice each of the first studies with a lesion."""
    chosen = []
    for study in studies:
        lesion = sum(np.asarray(study.targets[m]).sum((1, 2, 3)) for m in modalities)
        if lesion.any() and len(chosen) < STUDIES:
            at = lesion.argmax()
            parts = (study.inputs, study.targets)
            chosen.append([{m: np.asarray(part[m])[at] for m in modalities} for part in parts])
    return chosen


def overlay(image, reference, prediction):
    """An RGB picture, uint8 `(height, width, 3)`, of an image in [0, 1] with two outlines."""
    picture = np.repeat((np.clip(image, 0, 1) * 255).astype(np.uint8)[..., None], 3, axis=-1)
    for mask, colour in ((reference, REFERENCE), (prediction, PREDICTION)):
        mask = np.asarray(mask, bool)
        picture[mask & ~ndimage.binary_erosion(mask)] = colour
    return picture
