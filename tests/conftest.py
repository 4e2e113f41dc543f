"""What the tests share: quiet imports, a phantom cohort, its shards, and the real cases."""

import os
import shutil
import signal
import subprocess

# Started in the background, a shell's children ignore Ctrl-C, and so would those of the tests.
signal.signal(signal.SIGINT, signal.default_int_handler)

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"

from pathlib import Path  # noqa: E402

import pytest  # noqa: E402

import strokeseg_tf  # noqa: E402, F401  # First: it says how TensorFlow is to compute.
from tfrecord_tools.conversion import convert  # noqa: E402
from tfrecord_tools.phantom.cohort import write_phantom_cohort  # noqa: E402


@pytest.fixture(scope="session")
def cohort(tmp_path_factory) -> Path:
    """Eight small phantom studies, one a control, as NIfTI in the paper's layout."""
    out = tmp_path_factory.mktemp("cohort") / "cohort"
    return Path(
        write_phantom_cohort(out, studies=8, controls=1, seed=0, matrix=48, slices=(5, 7), jobs=1)
    )


@pytest.fixture(scope="session")
def shards(cohort, tmp_path_factory) -> Path:
    """The cohort as shards: 4 training, 2 validation and 2 test studies."""
    out = tmp_path_factory.mktemp("shards") / "shards"
    convert(cohort, out, shares={"train": 0.5, "validation": 0.25, "test": 0.25})
    return out


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real cases; skips where STROKESEG_TEST_DATA does not say where."""
    data = os.environ.get("STROKESEG_TEST_DATA")
    if not data:
        pytest.skip("STROKESEG_TEST_DATA is not set: it names the folder with the real cases")
    return Path(data)


@pytest.fixture(scope="session")
def isles22(real_data) -> Path:
    """The three real ISLES'22 cases."""
    return real_data / "isles22"


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """A headless Chromium; skips where there is none."""
    chromium = pytest.importorskip("chromium", reason="websocket-client is not installed")
    if chromium.find_chromium() is None:
        pytest.skip("no Chromium found: no page was opened (Debian: apt-get install chromium)")
    opened = chromium.Chromium(tmp_path_factory.mktemp("chromium") / "profile")
    yield opened
    opened.close()


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 kB, and a function to mount it with other options."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("this user may not mount a file system")

    def remount(options):
        subprocess.run(["mount", "-o", f"remount,{options}", str(place)], check=True)

    yield place, remount
    subprocess.run(["umount", "--lazy", str(place)], check=True)
