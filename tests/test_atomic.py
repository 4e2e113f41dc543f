"""Outputs appear whole or not at all; study ids cannot leave their folder."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfrecord_tools import atomic
from tfrecord_tools.atomic import check_free, new_folder, write_text
from tfrecord_tools.errors import InputError
from tfrecord_tools.names import file_name

MARKER = "done.json"


def write_output(out, text="new", **options):
    with new_folder(out, marker=MARKER, **options) as folder:
        (folder / MARKER).write_text(text)


def test_a_folder_appears_when_the_block_ends(tmp_path):
    out = tmp_path / "not" / "yet" / "there"
    with new_folder(out, marker=MARKER) as folder:
        (folder / MARKER).write_text("new")
        assert not out.exists() and folder.parent == out.parent
    assert [p.name for p in out.parent.iterdir()] == ["there"]
    assert (out / MARKER).read_text() == "new"


@pytest.mark.parametrize("stop", [RuntimeError, KeyboardInterrupt])
def test_a_stop_leaves_nothing_and_keeps_what_was_there(tmp_path, stop):
    out = tmp_path / "out"
    write_output(out, "old")
    with pytest.raises(stop), new_folder(out, overwrite=True, marker=MARKER) as folder:
        (folder / MARKER).write_text("new")
        raise stop
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert (out / MARKER).read_text() == "old"


def test_a_stop_between_the_two_renames_puts_the_old_output_back(tmp_path, monkeypatch):
    out = tmp_path / "out"
    write_output(out, "old")
    rename = os.replace

    def stop_at_the_second(source, target):
        if Path(source).suffix == ".partial":
            raise OSError("the disk is gone")
        rename(source, target)

    monkeypatch.setattr(atomic.os, "replace", stop_at_the_second)
    with pytest.raises(OSError, match="gone"):
        write_output(out, overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert (out / MARKER).read_text() == "old"


def test_overwrite_replaces_an_earlier_output_and_nothing_else(tmp_path):
    out = tmp_path / "out"
    write_output(out, "old")
    with pytest.raises(InputError, match="--overwrite"):
        write_output(out)
    write_output(out, overwrite=True)
    assert (out / MARKER).read_text() == "new"
    (out / MARKER).unlink()
    (out / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match=MARKER):
        write_output(out, overwrite=True)
    assert [p.name for p in out.iterdir()] == ["thesis.txt"]


def test_a_file_is_never_replaced_by_a_folder(tmp_path):
    out = tmp_path / "out"
    out.write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(InputError, match="out"):
            check_free(out, overwrite, marker=MARKER)


def test_an_empty_folder_is_free_even_the_current_one(tmp_path, monkeypatch):
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.chdir(home)
    write_output(".")
    assert (home / MARKER).read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["home"]


def test_a_long_name_is_written_too(tmp_path):
    write_output(tmp_path / ("x" * 255))
    assert (tmp_path / ("x" * 255) / MARKER).read_text() == "new"


def test_others_may_read_what_their_umask_allows(tmp_path):
    mask = os.umask(0o027)
    try:
        write_output(tmp_path / "out")
    finally:
        os.umask(mask)
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o750


def test_a_text_that_cannot_be_written_keeps_the_old_one(tmp_path):
    path = tmp_path / "note.txt"
    write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "\udcff")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["note.txt"]


# Names

HOSTILE = ["../../x", "..", ".", "/etc/passwd", "a b", "é" * 300, "𝔸" * 80, "x" * 300, "\0", "~"]


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1) | st.sampled_from(HOSTILE))
def test_a_name_never_leaves_its_folder(study):
    name = file_name(study)
    assert Path("home", name).parent == Path("home") and name not in ("", ".", "..")
    assert not name.startswith(".") and "\0" not in name
    assert len(name.encode()) <= 100


@given(st.sets(st.text("a./_é ", min_size=1, max_size=4), min_size=2, max_size=30))
def test_different_ids_have_different_names(studies):
    assert len({file_name(study) for study in studies}) == len(studies)


@pytest.mark.parametrize("study", ["phantom-001", "sub-strokecase0001_ses-0001", "Ärzte_1.2"])
def test_a_harmless_id_is_its_own_name(study):
    assert file_name(study) == study
