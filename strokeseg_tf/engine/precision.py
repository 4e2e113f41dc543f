"""Half precision: which one, and building a network under it."""

import contextlib

import keras

from strokeseg_tf.hardware import cpu_multiplies_bfloat16


def choose_precision(wanted: str) -> str:
    """What `--precision auto` means on this machine; another name is given back.

    bfloat16 where the hardware multiplies it: GPUs of compute capability 8 or more, CPUs with
    AVX512-BF16 or AMX. Else float32; float16 is for those who ask for it, since it needs a scaled
    loss.
    """
    if wanted != "auto":
        return wanted
    gpus = _compute_capabilities()
    fit = all(major >= 8 for major in gpus) if gpus else cpu_multiplies_bfloat16()
    return "bfloat16" if fit else "float32"


def _compute_capabilities() -> list[int]:
    """The major number of each GPU that TensorFlow sees."""
    if keras.backend.backend() != "tensorflow":
        return []
    import tensorflow as tf

    details = map(tf.config.experimental.get_device_details, tf.config.list_physical_devices("GPU"))
    return [detail.get("compute_capability", (0, 0))[0] for detail in details]


@contextlib.contextmanager
def precision(name):
    """Build layers under a Keras dtype policy, and put the old one back."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name if name == "float32" else f"mixed_{name}")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
