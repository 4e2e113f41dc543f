"""Half precision: which one, and building a network under it."""

import contextlib

import keras


@contextlib.contextmanager
def precision(name):
    """Build layers under a Keras dtype policy, and put the old one back."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name if name == "float32" else f"mixed_{name}")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
