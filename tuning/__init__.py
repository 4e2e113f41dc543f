"""Hyper-parameter search over the loss with Keras Tuner; sits on top of `strokeseg_tf`."""
