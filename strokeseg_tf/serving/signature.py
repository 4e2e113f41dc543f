"""The served graph: a raw study in, probabilities on its own slices out."""

import tensorflow as tf

from strokeseg_tf.models.variants import modalities_of
from strokeseg_tf.preprocessing import preprocess, restore, volume_range

#: Slices that go through the network at once: memory stays bounded for any number of slices.
CHUNK = 8


class StudyModel(tf.Module):
    """A network with the preprocessing inside.

    Its signature takes float32 `[slices, height, width]` for each modality, raw, in any unit, and
    gives `{modality}_probability`, float32 in [0, 1] of the same shape. Slices run along the
    first axis; both modalities lie on one grid, its axes towards superior, left and anterior (see
    `tfrecord_tools.grid.Grid.to_slices`).

    Args:
        network: A Keras model of `strokeseg_tf.models` that gives logits.
    """

    def __init__(self, network):
        super().__init__()
        self._network = network
        self._size = next(iter(network.input.values())).shape[1]
        self.modalities = modalities_of(network)

    def signature(self):
        """The concrete function of `serving_default`."""
        specs = {m: tf.TensorSpec((None, None, None), tf.float32, m) for m in self.modalities}
        return tf.function(self._predict).get_concrete_function(**specs)

    def _predict(self, **study):
        shape = tf.shape(study[self.modalities[0]])
        with tf.control_dependencies(self._checks(study, shape)):
            inputs = {
                m: preprocess(volume, volume_range(volume), self._size)
                for m, volume in study.items()
            }
        logits = self._in_chunks(inputs, shape[0])
        return {
            f"{m}_probability": restore(tf.sigmoid(logits[m]), shape[1], shape[2])
            for m in self.modalities
        }

    def _checks(self, study, shape):
        for modality, volume in study.items():
            yield tf.debugging.assert_equal(
                tf.shape(volume), shape, f"adc and dwi must have one shape; {modality} differs"
            )
            yield tf.debugging.assert_all_finite(volume, f"{modality} has NaN or infinite voxels")
        yield tf.debugging.assert_positive(shape, "a study needs at least one slice and pixel")

    def _in_chunks(self, inputs, count):
        """Logits of all slices, `CHUNK` at a time; the last chunk is filled up with zeros."""
        chunks = (count + CHUNK - 1) // CHUNK
        pixels = (self._size, self._size, 1)

        def chunked(x):
            x = tf.pad(x, [[0, chunks * CHUNK - count], [0, 0], [0, 0], [0, 0]])
            return tf.reshape(x, (chunks, CHUNK, *pixels))

        def run(chunk):
            logits = self._network(chunk, training=False)
            return {m: tf.cast(logits[m], tf.float32) for m in self.modalities}

        logits = tf.map_fn(
            run,
            {m: chunked(x) for m, x in inputs.items()},
            fn_output_signature={
                m: tf.TensorSpec((CHUNK, *pixels), tf.float32) for m in self.modalities
            },
            parallel_iterations=1,
        )
        return {m: tf.reshape(x, (-1, *pixels))[:count] for m, x in logits.items()}
