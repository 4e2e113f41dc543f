"""The served graph: a raw study in, probabilities on its own slices out."""

import json

import tensorflow as tf

from strokeseg_tf.models.variants import modalities_of
from strokeseg_tf.prediction.inputs import MAX_PIXELS, MAX_SLICES
from strokeseg_tf.preprocessing import preprocess, restore, volume_range

#: At most so many slices go through the network at once: memory stays bounded for any study.
CHUNK = 8


class StudyModel(tf.Module):
    """A network with the preprocessing inside.

    A volume is `[slices, height, width]`, raw, in any unit; slices run along the first axis, and
    both modalities lie on one grid, its axes towards superior, left and anterior (see
    `tfrecord_tools.grid.Grid.to_slices`). Normalisation is over the volume: a request is one whole
    study, and requests must not be merged by the server, but for those to `preprocessed`.

    A request with NaN, without a slice, of volumes that differ in shape, or larger than
    `MAX_SLICES` and `MAX_PIXELS` a side is an `InvalidArgumentError`.

    Args:
        network: A functional Keras model that gives logits; see
            `strokeseg_tf.serving.inference.inference_network`.
        threshold: Probability above which a voxel is lesion, for `study_masks`.
        description: What the signature `description` answers, ready for JSON.
    """

    def __init__(self, network, *, threshold, description):
        super().__init__()
        self.modalities = modalities_of(network)
        self._pixels = next(iter(network.input.values())).shape[1:]
        self._threshold = threshold
        self._description = json.dumps(description)
        # The network's variables are saved, its Python objects are not.
        self._variables = [variable.value for variable in network.variables]
        chunk = tf.TensorSpec((None, *self._pixels), tf.float32)
        forward = tf.function(
            lambda inputs: _probabilities(network(inputs, training=False)),
            input_signature=[dict.fromkeys(self.modalities, chunk)],
        )
        # Traced once, whatever the number of signatures; as an attribute it would be saved twice.
        self._forward = lambda inputs: forward(inputs)

    def signatures(self) -> dict:
        """Concrete functions by name of the signature; `m` is each modality of the network.

        - `serving_default`: m float32 `[slices, height, width]` -> `m_probability`, float32 in
          [0, 1] of the same shape.
        - `serving_int16`: the same from int16.
        - `study_masks`: m float32 `[slices, height, width]` -> `m_mask`, uint8, 1 where the
          probability is above the threshold.
        - `preprocessed`: m float32 `[n, size, size, 1]` in [0, 1], as
          `strokeseg_tf.preprocessing.preprocess` gives it -> `m_probability` of the same shape,
          which `strokeseg_tf.preprocessing.restore` takes. Slices do not affect one another.
        - `description`: `request`, any string -> `description`, a JSON text.
        """
        slices = (None, *self._pixels)
        return {
            "serving_default": self._function(self._study_probabilities, (None,) * 3, tf.float32),
            "serving_int16": self._function(self._study_probabilities, (None,) * 3, tf.int16),
            "study_masks": self._function(self._study_masks, (None,) * 3, tf.float32),
            "preprocessed": self._function(self._slice_probabilities, slices, tf.float32),
            "description": tf.function(self._describe).get_concrete_function(
                request=tf.TensorSpec((), tf.string, "request")
            ),
        }

    def _function(self, function, shape, dtype):
        specs = {m: tf.TensorSpec(shape, dtype, m) for m in self.modalities}
        return tf.function(function).get_concrete_function(**specs)

    def _study_probabilities(self, **study):
        study = {m: tf.cast(volume, tf.float32) for m, volume in study.items()}
        shape = tf.shape(study[self.modalities[0]])
        with tf.control_dependencies(_shape_checks(study)):
            inputs = {
                m: preprocess(volume, _finite_range(m, volume), self._pixels[0])
                for m, volume in study.items()
            }
        return {
            name: restore(probability, shape[1], shape[2])
            for name, probability in self._in_chunks(inputs).items()
        }

    def _study_masks(self, **study):
        probabilities = self._study_probabilities(**study)
        return {
            f"{m}_mask": tf.cast(probabilities[f"{m}_probability"] > self._threshold, tf.uint8)
            for m in self.modalities
        }

    def _slice_probabilities(self, **slices):
        with tf.control_dependencies(_shape_checks(slices)):
            ranges = [_finite_range(m, x) for m, x in slices.items()]
        with tf.control_dependencies(ranges):
            return self._in_chunks({m: tf.identity(x) for m, x in slices.items()})

    def _describe(self, request):
        with tf.control_dependencies([request]):
            return {"description": tf.constant(self._description)}

    def _in_chunks(self, inputs):
        """Probabilities of all slices, in chunks of one size; the last is filled up with zeros."""
        count = tf.shape(inputs[self.modalities[0]])[0]
        chunks = (count + CHUNK - 1) // CHUNK
        # 20 slices are three chunks of 7, not of 8: fewer zeros are computed.
        of_slices = (count + chunks - 1) // chunks

        def chunked(x):
            x = tf.pad(x, [[0, chunks * of_slices - count], [0, 0], [0, 0], [0, 0]])
            return tf.reshape(x, (chunks, of_slices, *self._pixels))

        chunk = tf.TensorSpec((None, *self._pixels), tf.float32)
        probabilities = tf.map_fn(
            self._forward,
            {m: chunked(x) for m, x in inputs.items()},
            fn_output_signature=dict.fromkeys(self.modalities, chunk),
            parallel_iterations=1,
        )
        return {
            f"{m}_probability": tf.reshape(x, (-1, *self._pixels))[:count]
            for m, x in probabilities.items()
        }


def _probabilities(logits):
    return {m: tf.sigmoid(tf.cast(x, tf.float32)) for m, x in logits.items()}


def _finite_range(modality, volume):
    """`volume_range`; NaN and infinity come out in it, so that the voxels are read once."""
    return tf.debugging.assert_all_finite(
        volume_range(volume), f"{modality} has NaN or infinite voxels"
    )


def _shape_checks(study):
    shape = tf.shape(next(iter(study.values())))
    for modality, volume in study.items():
        yield tf.debugging.assert_equal(
            tf.shape(volume), shape, f"adc and dwi must have one shape; {modality} differs"
        )
    yield tf.debugging.assert_positive(shape, "a study needs at least one slice and pixel")
    yield tf.debugging.assert_less_equal(
        shape[:3],
        [MAX_SLICES, MAX_PIXELS, MAX_PIXELS],
        f"a study has at most {MAX_SLICES} slices of {MAX_PIXELS} x {MAX_PIXELS} pixels",
    )
