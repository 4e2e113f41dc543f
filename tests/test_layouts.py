"""Where each data set keeps its files."""

import shutil
from pathlib import Path

import pytest

from tfrecord_tools.errors import InputError
from tfrecord_tools.layouts import LAYOUTS, find_cases, find_studies, foscal_files, pair_of_files

CHALLENGE = [
    f"{top}/sub-strokecase000{n}/ses-0001/{deep}sub-strokecase000{n}_ses-0001_{what}.nii.gz"
    for n in (1, 2)
    for top, deep, what in [
        ("rawdata", "", "adc"),
        ("rawdata", "", "dwi"),
        ("derivatives", "", "msk"),
    ]
]
#: The forms in which ISLES'22 is handed out.
ISLES22 = {
    "challenge": CHALLENGE,
    "without rawdata": [path.replace("rawdata/", "") for path in CHALLENGE],
    "dwi folders": [
        path.replace("rawdata/", "").replace("ses-0001/", "ses-0001/dwi/")
        if "rawdata" in path
        else path
        for path in CHALLENGE
    ],
}
FOSCAL = [
    *("p1/1_ADC_axial/ADC.nii.gz", "p1/2_DWI_b1000/DWI.nii.gz"),
    *("p1/Masks/R1/p1_adc.nii.gz", "p1/Masks/R1/p1_dwi.nii.gz", "p1/Masks/R2/p1_DWI.nii.gz"),
    *("p2/ADC/ADC.nii", "notes/readme.txt"),
]


def touch(home, paths):
    """Empty files: finding looks at names alone."""
    for path in paths:
        (home / path).parent.mkdir(parents=True, exist_ok=True)
        (home / path).touch()
    return home


@pytest.mark.parametrize("layout", ["auto", "isles22"])
@pytest.mark.parametrize("paths", ISLES22.values(), ids=ISLES22)
def test_isles22_is_found_in_every_form(tmp_path, paths, layout):
    studies = find_studies(touch(tmp_path, paths), layout)
    assert [s.study for s in studies] == [f"sub-strokecase000{n}_ses-0001" for n in (1, 2)]
    assert [s.patient for s in studies] == ["sub-strokecase0001", "sub-strokecase0002"]
    for study in studies:
        assert set(study.images) == {"adc", "dwi"}
        assert set(study.masks) == {("r1", "adc"), ("r1", "dwi")}
        assert all(study.study in path.name for path in study.images.values())
        assert all(path.name == f"{study.study}_msk.nii.gz" for path in study.masks.values())


def test_two_sessions_are_two_studies_of_one_patient(tmp_path):
    paths = [f"rawdata/sub-1/ses-{n}/sub-1_ses-{n}_dwi.nii.gz" for n in (1, 2)]
    studies = find_studies(touch(tmp_path, paths))
    assert [(s.study, s.patient) for s in studies] == [
        ("sub-1_ses-1", "sub-1"),
        ("sub-1_ses-2", "sub-1"),
    ]


@pytest.mark.parametrize("layout", ["auto", "foscal"])
def test_foscal_is_found_with_masks_by_rater_and_modality(tmp_path, layout):
    first, second = find_studies(touch(tmp_path, FOSCAL), layout)
    assert first.study == "p1" and set(first.images) == {"adc", "dwi"}
    assert {key: path.name for key, path in first.masks.items()} == {
        ("r1", "adc"): "p1_adc.nii.gz",
        ("r1", "dwi"): "p1_dwi.nii.gz",
        ("r2", "dwi"): "p1_DWI.nii.gz",
    }
    assert second.study == "p2" and set(second.images) == {"adc"} and not second.masks


def test_the_resource_files_of_macos_are_no_images(tmp_path):
    hidden = [str(Path(path).with_name(f"._{Path(path).name}")) for path in CHALLENGE]
    for study in find_studies(touch(tmp_path, CHALLENGE + hidden)):
        files = [*study.images.values(), *study.masks.values()]
        assert not any(path.name.startswith(".") for path in files)


def test_what_is_written_as_foscal_is_found_as_foscal(tmp_path):
    written = foscal_files(tmp_path / "s1", ("adc", "dwi"), [("r1", "adc"), ("r2", "dwi")])
    touch(tmp_path, [*written.images.values(), *written.masks.values()])
    assert find_studies(tmp_path) == [written]


def test_nothing_found_says_what_was_looked_for_and_what_is_there(tmp_path):
    touch(tmp_path, [f"{letter}.txt" for letter in "abcdefg"])
    with pytest.raises(InputError) as refusal:
        find_studies(tmp_path)
    text = str(refusal.value)
    assert text.startswith(f"no study found in {tmp_path}; looked for isles22: ")
    assert all(layout.looks_for in text for layout in LAYOUTS.values())
    assert "the folder holds a.txt, b.txt, c.txt, d.txt, e.txt, ...; name another" in text


def test_an_empty_folder_holds_nothing(tmp_path):
    with pytest.raises(InputError, match="the folder holds nothing"):
        find_studies(tmp_path)


def test_the_wrong_layout_finds_nothing(tmp_path):
    touch(tmp_path, FOSCAL)
    with pytest.raises(InputError, match="looked for isles22: [^;]*; the folder holds notes, p1"):
        find_studies(tmp_path, "isles22")


@pytest.mark.parametrize(
    ("name", "layout", "words"),
    [("nowhere", "auto", "does not exist"), ("", "brats", "known layouts: auto, isles22, foscal")],
)
def test_wrong_arguments_are_refused(tmp_path, name, layout, words):
    with pytest.raises(InputError, match=words):
        find_studies(tmp_path / name, layout)


# Cases a user names


def names(studies):
    return [study.study for study in studies]


def test_a_cohort_a_table_and_a_study_folder_are_cases(cohort):
    assert find_cases([str(cohort)]) == find_studies(cohort)
    assert names(find_cases([str(cohort / "studies.csv")])) == names(find_studies(cohort))
    one, other = (str(cohort / f"phantom-00{n}") for n in (5, 2))
    assert find_cases([one, other]) == [find_studies(cohort)[i] for i in (1, 4)]


def test_a_study_folder_relative_to_here_is_a_case(cohort, monkeypatch):
    monkeypatch.chdir(cohort / "phantom-003")
    assert names(find_cases(["."])) == ["phantom-003"]


@pytest.mark.parametrize("depth", [2, 3])
def test_a_session_or_subject_of_isles22_is_a_case(tmp_path, depth):
    touch(tmp_path, CHALLENGE)
    folder = Path(*(tmp_path / CHALLENGE[0]).relative_to(tmp_path).parts[:depth])
    (study,) = find_cases([str(tmp_path / folder)])
    assert study.study == "sub-strokecase0001_ses-0001" and len(study.images) == 2


def test_two_images_in_a_folder_are_a_case_of_its_name(tmp_path):
    touch(tmp_path / "case 7", ["x_ADC.nii.gz", "x_DWI.nii.gz", "readme.txt"])
    (study,) = find_cases([str(tmp_path / "case 7")])
    assert study.study == "case 7" and study.images["adc"].name == "x_ADC.nii.gz"


def test_a_case_named_twice_or_not_at_all_is_refused(cohort, tmp_path):
    with pytest.raises(InputError, match="'phantom-001' stands twice"):
        find_cases([str(cohort), str(cohort / "phantom-001")])
    with pytest.raises(InputError, match="no study found"):
        find_cases([str(tmp_path)])


@pytest.mark.parametrize(
    ("adc", "dwi", "study"),
    [
        ("case-7_adc.nii.gz", "case-7_dwi.nii.gz", "case-7"),
        ("p1/ADC.nii.gz", "p1/DWI.nii.gz", "p1"),
        ("p1/ADC/ADC.nii.gz", "p1/DWI/DWI.nii", "p1"),
        (None, "case-7.nii.gz", "case-7"),
    ],
)
def test_a_pair_is_named_after_what_its_files_share(tmp_path, adc, dwi, study):
    paths = [tmp_path / path if path else None for path in (adc, dwi)]
    touch(tmp_path, [path for path in paths if path])
    files = pair_of_files(*(str(path) if path else None for path in paths))
    assert files.study == study
    assert list(files.images.values()) == [path for path in paths if path]


def test_a_pair_lacking_a_file_is_refused(tmp_path):
    touch(tmp_path, ["ADC.nii.gz"])
    with pytest.raises(InputError, match="DWI.nii.gz does not exist; check --dwi"):
        pair_of_files(str(tmp_path / "ADC.nii.gz"), str(tmp_path / "DWI.nii.gz"))


def test_the_real_cases_are_found_in_any_form(isles22, tmp_path):
    studies = find_studies(isles22)
    assert [s.patient[-4:] for s in studies] == ["0001", "0002", "0009"]
    assert all(len(s.images) == len(s.masks) == 2 for s in studies)
    shutil.copytree(isles22 / "rawdata", tmp_path / "copy")
    assert names(find_studies(tmp_path / "copy")) == names(studies)
