"""Keras without what it imports for features that a command does not use."""

import contextlib
import sys
from collections.abc import Iterator

#: For wrappers of scikit-learn models, galleries of pictures and tables: together a third of the
#: time that TensorFlow and Keras take to be imported.
UNUSED = ("sklearn", "matplotlib", "cv2", "pandas")


@contextlib.contextmanager
def leaner_keras() -> Iterator[None]:
    """While the block runs, Keras finds `UNUSED` missing if it is imported.

    Keras does without. Only for commands, whose process is their own: what was left out
    stays left out of Keras, though the libraries themselves can be imported afterwards.
    """
    absent = [name for name in UNUSED if name not in sys.modules]
    for name in absent:
        sys.modules[name] = None
    try:
        yield
    finally:
        for name in absent:
            if sys.modules.get(name) is None:
                sys.modules.pop(name, None)
