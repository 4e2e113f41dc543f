"""Segmentation of ischemic stroke in paired ADC and DWI studies. Not a medical device."""

import os

__version__ = "0.1.0"

# TensorFlow turns to oneDNN's kernels by itself only on CPUs with AVX512-VNNI, but they train two
# to three times faster with AVX2 alone too. What a user has set stays.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
