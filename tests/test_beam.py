"""The conversion in Apache Beam gives the bytes that it gives without."""

import pytest

from tfrecord_tools.conversion import convert
from tfrecord_tools.errors import InputError
from tfrecord_tools.integrity import check_shards

SHARES = {"train": 0.5, "validation": 0.25, "test": 0.25}


@pytest.fixture
def in_beam():
    pytest.importorskip(
        "apache_beam",
        reason="apache-beam is not installed: it has other pins, see make test-beam",
    )
    from tfrecord_tools.beam_conversion import in_beam

    return in_beam


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(
    "options",
    [
        ["runner=FnApiRunner"],
        ["runner=FnApiRunner", "direct_num_workers=2", "direct_running_mode=multi_threading"],
        [
            "runner=FnApiRunner",
            "direct_num_workers=2",
            "direct_running_mode=multi_processing",
        ],
    ],
    ids=["one worker", "two threads", "two processes"],
)
def test_beam_gives_the_same_bytes(in_beam, cohort, shards, tmp_path, options):
    out = tmp_path / "out"
    convert(cohort, out, shares=SHARES, execute=in_beam(out, options))
    assert contents(out) == contents(shards)
    check_shards(out)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_bad_studies_are_named_all_at_once(in_beam, cohort, tmp_path):
    import shutil

    home = shutil.copytree(cohort, tmp_path / "home" / "cohort")
    for number in (2, 5):
        (home / f"phantom-00{number}/DWI/DWI.nii.gz").write_bytes(b"nothing")
    out = tmp_path / "out"
    with pytest.raises(InputError, match="2 of 8 studies.*phantom-002.*phantom-005"):
        convert(home, out, execute=in_beam(out, ["runner=FnApiRunner"]))
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_a_pipeline_that_cannot_start_is_one_sentence(in_beam, cohort, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(InputError, match="the Beam pipeline stopped") as refusal:
        convert(cohort, out, execute=in_beam(out, ["runner=NoSuchRunner"]))
    assert "\n" not in str(refusal.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("option", ["--runner=DirectRunner", "=x", ""])
def test_options_have_no_dashes(in_beam, tmp_path, option):
    with pytest.raises(InputError, match="NAME=VALUE"):
        in_beam(tmp_path / "out", [option])


def test_without_beam_the_error_names_the_extra(tmp_path):
    import importlib.util

    if importlib.util.find_spec("apache_beam"):
        pytest.skip("apache-beam is installed")
    from tfrecord_tools.beam_conversion import in_beam

    with pytest.raises(InputError, match=r"strokeseg-tf\[beam\]"):
        in_beam(tmp_path / "out")
