"""OpenVINO without its telemetry: importing it reports to Google Analytics, unless asked not to."""

import sys


def import_openvino():
    """The module `openvino`, imported without a word to anybody.

    It makes do without `openvino_telemetry` where that cannot be imported; later it can again.
    """
    kept_back = sys.modules.setdefault("openvino_telemetry", None) is None
    try:
        import openvino
    finally:
        if kept_back:
            del sys.modules["openvino_telemetry"]
    return openvino
