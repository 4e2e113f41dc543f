"""Hyper-parameter search with Keras Tuner; sits on top of `strokeseg_tf`."""
