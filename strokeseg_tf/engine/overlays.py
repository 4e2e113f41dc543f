"""Validation slices with the outlines of mask and prediction, for TensorBoard."""

import keras
import numpy as np
from scipy import ndimage

#: How many studies are shown, and about how often in a training.
STUDIES, PICTURES = 4, 20
REFERENCE, PREDICTION = (0, 255, 0), (255, 0, 0)


class Overlays(keras.callbacks.Callback):
    """Writes the slice with most lesion of a few validation studies; green the rater, red ours.

    Args:
        predictor: `strokeseg_tf.prediction.network.NetworkPredictor` of the trained model.
        studies: `strokeseg_tf.validation.PreparedStudies`.
        folder: Folder of the logs.
        epochs: Epochs in all: some are left out where they are many.
    """

    def __init__(self, predictor, studies, folder, epochs):
        super().__init__()
        self._predictor = predictor
        self._studies = studies
        self._folder = folder
        self._every = max(1, epochs // PICTURES)
        self._chosen = self._writer = None

    def on_epoch_end(self, epoch, logs=None):
        if epoch % self._every:
            return
        import tensorflow as tf

        self._chosen = self._chosen or _choose(self._studies)
        cut = np.log(self._predictor.threshold / (1 - self._predictor.threshold))
        folder = str(self._folder / "overlays")
        self._writer = self._writer or tf.summary.create_file_writer(folder)
        with self._writer.as_default(step=epoch):  # Which flushes when it ends.
            for modality in self._predictor.modalities:
                pictures = []
                for inputs, targets in self._chosen:
                    marked = self._predictor.logits(inputs)[modality][0, ..., 0] > cut
                    image = np.asarray(inputs[modality])[0, ..., 0]
                    pictures.append(overlay(image, targets[modality], marked))
                tf.summary.image(f"validation_{modality}", pictures, max_outputs=STUDIES)


def _choose(studies) -> list:
    """`(inputs, masks)` of one slice each of the first studies with a lesion."""
    chosen = []
    for study in studies:
        lesion = sum(np.asarray(t).sum((1, 2, 3)) for t in study.targets.values())
        if lesion.any() and len(chosen) < STUDIES:
            at = slice(int(lesion.argmax()), int(lesion.argmax()) + 1)
            inputs = {m: np.asarray(x)[at] for m, x in study.inputs.items()}
            chosen.append(
                (inputs, {m: np.asarray(t)[at][0, ..., 0] for m, t in study.targets.items()})
            )
    return chosen


def overlay(image, reference, prediction):
    """An RGB picture, uint8 `(height, width, 3)`, of an image in [0, 1] with two outlines."""
    picture = np.repeat((np.clip(image, 0, 1) * 255).astype(np.uint8)[..., None], 3, axis=-1)
    for mask, colour in ((reference, REFERENCE), (prediction, PREDICTION)):
        mask = np.asarray(mask, bool)
        picture[mask & ~ndimage.binary_erosion(mask)] = colour
    return picture
