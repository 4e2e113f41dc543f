"""The chart library inside the report: Plotly's own bundle, compressed."""

import base64
import gzip
from importlib.resources import files

from strokeseg_tf.evaluation.report import markup


def plotly_block() -> str:
    """Plotly (MIT licence, stated in the bundle) as gzip in base64, under 2 MB instead of 4.8.

    The page's script inflates it when the first chart comes into sight.
    """
    bundle = files("plotly") / "package_data" / "plotly.min.js"
    packed = gzip.compress(bundle.read_bytes(), 9, mtime=0)
    return markup.data_block("plotly", base64.b64encode(packed).decode("ascii"))
