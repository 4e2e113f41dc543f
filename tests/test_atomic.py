"""Outputs appear whole or not at all; study ids cannot leave their folder."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfrecord_tools import atomic
from tfrecord_tools.atomic import (
    NEW,
    OLD,
    UNFINISHED,
    check_free,
    new_folder,
    resumable_folder,
    work_folder,
    write_text,
)
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


# Work folders that outlive an interruption


def work_on(out, text="new", stop=None, **options):
    """Write an output in two steps, the first of which is kept; say if it was there."""
    with resumable_folder(out, marker=MARKER, **options) as work:
        found = (work / "step").exists()
        (work / "step").write_text("done")
        (work / UNFINISHED / "half").write_text("ha")
        if stop:
            raise stop
        (work / NEW / MARKER).write_text(text)
    return found


def test_a_work_folder_becomes_the_output(tmp_path):
    out = tmp_path / "not" / "yet" / "out"
    assert not work_on(out)
    assert (out / MARKER).read_text() == "new"
    assert [path.name for path in out.parent.iterdir()] == ["out"]


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), OSError("disk"), RuntimeError("ours")])
def test_what_is_finished_is_found_again_after_a_stop(tmp_path, stop):
    out = tmp_path / "out"
    with pytest.raises(type(stop)):
        work_on(out, stop=stop)
    assert not out.exists() and not (work_folder(out) / UNFINISHED).exists()
    assert work_on(out)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_mistake_of_the_user_keeps_nothing(tmp_path):
    with pytest.raises(InputError):
        work_on(tmp_path / "out", stop=InputError("bad"))
    assert not list(tmp_path.iterdir())


def test_a_mistake_of_the_user_loses_nothing_that_was_finished_before(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        work_on(out, stop=KeyboardInterrupt())
    with pytest.raises(InputError, match="bad; what was finished before is kept in .*out.partial"):
        work_on(out, stop=InputError("bad"))
    assert work_on(out)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_stop_before_anything_is_finished_keeps_nothing(tmp_path):
    with (
        pytest.raises(KeyboardInterrupt),
        resumable_folder(tmp_path / "out", marker=MARKER) as work,
    ):
        (work / UNFINISHED / "half").write_text("ha")
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_the_old_output_stands_until_the_last_moment(tmp_path):
    out = tmp_path / "out"
    work_on(out, "old")
    with pytest.raises(InputError, match="--overwrite"):
        work_on(out)
    with pytest.raises(KeyboardInterrupt):
        work_on(out, stop=KeyboardInterrupt(), overwrite=True)
    assert (out / MARKER).read_text() == "old"
    assert work_on(out, overwrite=True)
    assert (out / MARKER).read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_kill_between_the_two_renames_is_mended(tmp_path):
    out = tmp_path / "out"
    work_on(out, "old")
    with pytest.raises(KeyboardInterrupt):
        work_on(out, stop=KeyboardInterrupt(), overwrite=True)
    os.replace(out, work_folder(out) / OLD)
    with pytest.raises(InputError, match="--overwrite"):
        work_on(out)
    assert (out / MARKER).read_text() == "old"


def test_a_kill_after_the_last_rename_leaves_no_litter(tmp_path):
    out = tmp_path / "out"
    work_on(out, "new")
    (work_folder(out) / OLD).mkdir(parents=True)
    work_folder(out).with_name(f"{work_folder(out).name}.123.removed").mkdir()
    with pytest.raises(InputError, match="--overwrite"):
        work_on(out)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_two_at_once_are_kept_apart(tmp_path):
    out = tmp_path / "out"
    with resumable_folder(out, marker=MARKER) as work:
        with pytest.raises(InputError, match="another process"):
            work_on(out)
        (work / NEW / MARKER).write_text("first")
    assert (out / MARKER).read_text() == "first"


@pytest.mark.parametrize("name", ["x" * 250, "my shards", "--out"])
def test_any_output_name_has_a_work_folder(tmp_path, name):
    work_on(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert work_folder(tmp_path / ("x" * 249 + "y")) != work_folder(tmp_path / ("x" * 250))


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


def test_processes_of_one_number_may_write_the_same_file(tmp_path):
    """As containers that share a volume do, in each of which a process is number 1."""
    path = tmp_path / "trials.csv"
    with atomic.new_file(path) as first:
        first.write(b"first")
        write_text(path, "second")
        assert path.read_text() == "second"
    assert path.read_text() == "first"
    assert [p.name for p in tmp_path.iterdir()] == ["trials.csv"]
