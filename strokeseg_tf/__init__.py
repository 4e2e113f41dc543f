"""Segmentation of ischemic stroke in paired ADC and DWI studies. Not a medical device."""

import os

__version__ = "0.1.0"

# TensorFlow turns to oneDNN's kernels by itself only on CPUs with AVX512-VNNI, but they train two
# to three times faster with AVX2 alone too. What a user has set stays.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")


def __getattr__(name):
    """`strokeseg_tf.scores`, without TensorFlow, and `Predictor`: loaded when asked for."""
    if name == "scores":
        from strokeseg_tf.evaluation.scores import scores

        return scores
    if name == "Predictor":
        from strokeseg_tf.prediction.predictor import Predictor

        return Predictor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
