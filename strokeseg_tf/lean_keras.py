"""Keras without the libraries that it imports only to see whether they are there.

Importing Keras imports scikit-learn for its wrappers, pyplot and OpenCV for its galleries and
pandas for its tables, where they are installed: a third of the time, for nothing a command uses.
"""

import importlib.abc
import sys

#: What is kept back, and from whom.
OPTIONAL = {"sklearn", "matplotlib", "matplotlib.pyplot", "cv2", "pandas"}
ASKING = ("keras.src.wrappers", "keras.src.visualization", "keras.src.trainers.data_adapters")


class _KeptBack(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        """None, so that others look for the module; an error where Keras only wants to see."""
        if name in OPTIONAL and _importer().startswith(ASKING):
            raise ModuleNotFoundError(f"{name} is not loaded for Keras", name=name)


def _importer() -> str:
    """The module whose import statement is being carried out."""
    frame = sys._getframe(2)
    while frame.f_globals.get("__name__", "").startswith("importlib"):
        frame = frame.f_back
    return frame.f_globals.get("__name__", "")


def keep_optional_imports_back():
    """From now on; whoever else imports these libraries gets them."""
    if not any(isinstance(finder, _KeptBack) for finder in sys.meta_path):
        sys.meta_path.insert(0, _KeptBack())
