"""The CSV table of studies."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tfrecord_tools.errors import InputError
from tfrecord_tools.layouts import find_studies
from tfrecord_tools.study_files import StudyFiles
from tfrecord_tools.table import read_table, write_table

ids = st.text(st.characters(categories=["L", "N", "P", "Zs"]), min_size=1, max_size=9).filter(
    lambda text: text.isprintable() and text == text.strip()
)
raters = st.sampled_from(["r1", "r2", "senior_reader", "ärztin 3"])
paths = st.sampled_from(["a.nii.gz", "deep/er/ö b.nii", "../up.nii.gz", 'comma, "quote".nii'])


@st.composite
def study_files(draw, study):
    images = draw(st.dictionaries(st.sampled_from(["adc", "dwi"]), paths, min_size=1))
    keys = st.tuples(raters, st.sampled_from(["adc", "dwi"]))
    masks = draw(st.dictionaries(keys, paths, max_size=4))
    group = draw(st.sampled_from(["", "stroke", "control"]))
    return StudyFiles(study, images, masks, draw(ids), group, draw(st.sampled_from(["", "test"])))


cohorts = st.lists(ids, min_size=1, max_size=5, unique=True).flatmap(
    lambda names: st.tuples(*(study_files(name) for name in names))
)


def placed(files, home):
    """The same study with its files below `home`."""
    images = {m: Path(home, path) for m, path in files.images.items()}
    masks = {key: Path(home, path) for key, path in files.masks.items()}
    return StudyFiles(files.study, images, masks, files.patient, files.group, files.split)


@given(cohorts)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_table_read_is_the_table_written(tmp_path, cohort):
    studies = [placed(files, tmp_path) for files in cohort]
    write_table(tmp_path / "studies.csv", studies)
    assert read_table(tmp_path / "studies.csv") == studies


def table(folder, *lines, encoding="utf-8"):
    path = folder / "studies.csv"
    path.write_text("\n".join(lines), encoding=encoding)
    return path


def test_a_table_from_a_spreadsheet_is_understood(tmp_path):
    """A byte order mark, blanks, empty rows, short rows and unknown columns do no harm."""
    lines = ["study , adc,note,group", "s1, a.nii.gz ,x,Control", ",,,", "s2,b.nii.gz"]
    first, second = read_table(table(tmp_path, *lines, encoding="utf-8-sig"))
    assert first.images == {"adc": tmp_path / "a.nii.gz"} and first.group == "control"
    assert second.images == {"adc": tmp_path / "b.nii.gz"} and second.patient == "s2"


def test_absolute_paths_are_taken_as_they_are(tmp_path):
    elsewhere = tmp_path.parent / "a.nii"
    (files,) = read_table(table(tmp_path, "study,dwi", f"s1,{elsewhere}"))
    assert files.images["dwi"] == elsewhere


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([""], "no column 'study'"),
        (["study,adc"], "no row"),
        (["name,adc", "s1,a.nii"], "no column 'study'"),
        (["study;adc", "s1;a.nii"], "separated by commas"),
        (["study,adc", "s1,a.nii", ",b.nii"], "row 3: a study has no id"),
        (["study,adc", "s1,"], "row 2: study s1 has neither an ADC nor a DWI"),
        (["study,adc,group", "s1,a.nii,healthy"], "unknown group 'healthy'"),
        (["study,adc,mask_flair_r1", "s1,a.nii,m.nii"], "mask_flair_r1.*mask_adc_r1"),
        (["study,adc,mask_adc", "s1,a.nii,m.nii"], "mask_adc.*mask_adc_r1"),
        (["study,adc", '"s\n1",a.nii'], "unprintable"),
    ],
)
def test_a_wrong_table_is_refused_with_its_name(tmp_path, lines, words):
    with pytest.raises(InputError, match=words) as refusal:
        read_table(table(tmp_path, *lines))
    assert "studies.csv" in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_a_wrong_encoding_is_refused(tmp_path, encoding):
    with pytest.raises(InputError, match="studies.csv.*UTF-8"):
        read_table(table(tmp_path, "study,adc", "é,a.nii", encoding=encoding))


def test_an_id_twice_is_refused(tmp_path):
    with pytest.raises(InputError, match="'s1' stands twice"):
        find_studies(table(tmp_path, "study,adc", "s1,a.nii", "s2,b.nii", "s1,c.nii"))
