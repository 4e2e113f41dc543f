"""Optional libraries of Keras are kept back from Keras alone."""

import subprocess
import sys

PROGRAM = """
import sys
from strokeseg_tf.lean_keras import keep_optional_imports_back

keep_optional_imports_back()
import keras
assert not {"sklearn", "matplotlib", "cv2", "pandas"} & set(sys.modules)
import matplotlib.pyplot
import sklearn
print(keras.__version__)
"""


def test_keras_does_not_get_what_it_only_looks_for_and_others_do():
    result = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
