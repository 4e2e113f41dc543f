"""Where each data set keeps its files."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from tfrecord_tools.errors import InputError
from tfrecord_tools.layouts import LAYOUTS, find_cases, find_studies, foscal_files, pair_of_files
from tfrecord_tools.study import read_study

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
SOOP = [
    *(f"sub-{n}/dwi/sub-{n}_rec-{rec}_dwi.nii.gz" for n in (7, 12) for rec in ("ADC", "TRACE")),
    *("sub-7/anat/sub-7_FLAIR.nii.gz", "sub-9/dwi/sub-9_rec-ADC_dwi.nii.gz", "participants.tsv"),
    *(
        f"derivatives/lesion_masks/sub-{n}/dwi/sub-{n}_space-TRACE_desc-lesion_mask.nii.gz"
        for n in (7, 9)
    ),
]
#: Masks of the two raters in the folder of the case, as it is handed out, or beside the cases.
APIS = {
    where: [
        *("train_0/train_0_adc.nii.gz", "train_0/train_0_ncct.nii.gz", "train_1/train_1_adc.nii"),
        *(f"{where}/train_0_r{n}_mask.nii.gz" for n in (1, 2)),
    ]
    for where in ("masks", "train_0/masks", "train_0")
}
BIDS = [
    *("sub-a/ses-1/dwi/sub-a_ses-1_adc.nii.gz", "sub-a/ses-1/dwi/sub-a_ses-1_dwi.nii.gz"),
    *("sub-a/ses-1/dwi/sub-a_ses-1_dwi.bval", "sub-a/ses-1/dwi/sub-a_ses-1_acq-b0_dwi.nii.gz"),
    *("sub-a/ses-2/dwi/sub-a_ses-2_acq-ADC_dwi.nii.gz", "sub-a/ses-2/dwi/sub-a_ses-2_trace.mha"),
    *("sub-b/dwi/sub-b_desc-adcmap_dwi.nii", "sub-b/dwi/sub-b_acq-eADC_dwi.nii"),
    *("sub-b/dwi/sub-b_acq-b1000_dwi.nii", "sub-b/dwi/sub-b_dwi.nii", "sub-b/dwi/sub-b_sbref.nii"),
    "derivatives/manual/sub-a/ses-1/dwi/sub-a_ses-1_label-lesion_mask.nii.gz",
    "derivatives/manual/sub-a/ses-1/dwi/sub-a_ses-1_space-MNI_label-lesion_mask.nii.gz",
    "derivatives/manual/sub-a/ses-1/dwi/sub-a_ses-1_label-brain_mask.nii.gz",
    "derivatives/manual/sub-b/sub-b_space-ADC_desc-lesion_mask.nii.gz",
    "derivatives/manual/sub-b/sub-b_space-DWI_desc-lesion_mask.nii.gz",
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


@pytest.mark.parametrize("layout", ["auto", "soop", "bids"])
def test_soop_is_found_with_one_mask_for_both_modalities(tmp_path, layout):
    first, second, third = find_studies(touch(tmp_path, SOOP), layout)
    assert [s.study for s in (first, second, third)] == ["sub-12", "sub-7", "sub-9"]
    assert set(first.images) == {"adc", "dwi"} and not first.masks
    assert "rec-ADC" in second.images["adc"].name and "rec-TRACE" in second.images["dwi"].name
    assert (
        set(second.masks) == {("r1", "adc"), ("r1", "dwi")} and len(set(second.masks.values())) == 1
    )
    assert set(third.images) == {"adc"} and set(third.masks) == {("r1", "adc")}


@pytest.mark.parametrize("layout", ["auto", "apis"])
@pytest.mark.parametrize("paths", APIS.values(), ids=APIS)
def test_apis_is_found_with_adc_alone_and_two_raters(tmp_path, paths, layout):
    first, second = find_studies(touch(tmp_path, paths), layout)
    assert (first.study, second.study) == ("train_0", "train_1")
    assert {m: p.name for m, p in first.images.items()} == {"adc": "train_0_adc.nii.gz"}
    assert {key: path.name for key, path in first.masks.items()} == {
        ("r1", "adc"): "train_0_r1_mask.nii.gz",
        ("r2", "adc"): "train_0_r2_mask.nii.gz",
    }
    assert set(second.images) == {"adc"} and not second.masks


@pytest.mark.parametrize("top", ["", "rawdata/"])
@pytest.mark.parametrize("layout", ["auto", "bids"])
def test_bids_is_found_by_its_entities(tmp_path, layout, top):
    paths = [path if path.startswith("deriv") else top + path for path in BIDS]
    one, two, other = find_studies(touch(tmp_path, paths), layout)
    assert [(s.study, s.patient) for s in (one, two, other)] == [
        ("sub-a_ses-1", "sub-a"),
        ("sub-a_ses-2", "sub-a"),
        ("sub-b", "sub-b"),
    ]
    names = [{m: p.name for m, p in s.images.items()} for s in (one, two, other)]
    assert names == [
        {"adc": "sub-a_ses-1_adc.nii.gz", "dwi": "sub-a_ses-1_dwi.nii.gz"},
        {"adc": "sub-a_ses-2_acq-ADC_dwi.nii.gz", "dwi": "sub-a_ses-2_trace.mha"},
        {"adc": "sub-b_desc-adcmap_dwi.nii", "dwi": "sub-b_acq-b1000_dwi.nii"},
    ]
    assert {p.name for p in one.masks.values()} == {"sub-a_ses-1_label-lesion_mask.nii.gz"}
    assert set(one.masks) == {("r1", "adc"), ("r1", "dwi")} and not two.masks
    assert {key: path.name for key, path in other.masks.items()} == {
        ("r1", "adc"): "sub-b_space-ADC_desc-lesion_mask.nii.gz",
        ("r1", "dwi"): "sub-b_space-DWI_desc-lesion_mask.nii.gz",
    }


def test_bids_sessions_named_as_in_isles22_are_no_ambiguity(tmp_path):
    home = "sub-a/ses-1/dwi/sub-a_ses-1"
    touch(tmp_path, [f"{home}_{what}.nii" for what in ("adc", "acq-b0_dwi", "dwi", "sbref")])
    (study,) = find_studies(tmp_path)
    assert [p.name for p in study.images.values()] == ["sub-a_ses-1_adc.nii", "sub-a_ses-1_dwi.nii"]


def test_the_rawdata_folder_alone_still_has_its_masks(tmp_path):
    touch(tmp_path, CHALLENGE)
    assert find_studies(tmp_path / "rawdata") == find_studies(tmp_path)


def test_pipelines_of_bids_are_raters(tmp_path):
    paths = ["sub-a/dwi/sub-a_dwi.nii.gz"] + [
        f"derivatives/{name}/sub-a/dwi/sub-a_desc-lesion_mask.nii.gz" for name in ("R1", "Senior")
    ]
    (study,) = find_studies(touch(tmp_path, paths))
    assert set(study.masks) == {("r1", "dwi"), ("senior", "dwi")}


def test_bids_does_not_choose_between_runs(tmp_path):
    touch(tmp_path, [f"sub-{s}/dwi/sub-{s}_run-{n}_dwi.nii" for s in "abc" for n in "12"])
    with pytest.raises(InputError, match=r"3 of 3 studies.*sub-a_run-1_dwi.nii and sub-a_run-2"):
        find_studies(tmp_path)


def test_the_layout_that_explains_most_is_meant(tmp_path):
    """Eight subjects named as in SOOP and two otherwise: a BIDS set, none of them lost."""
    touch(
        tmp_path,
        [f"sub-{n}/dwi/sub-{n}_rec-{r}_dwi.nii" for n in range(8) for r in ("ADC", "TRACE")],
    )
    touch(tmp_path, [f"sub-{n}/dwi/sub-{n}_{s}.nii" for n in (8, 9) for s in ("adc", "dwi")])
    assert len(find_studies(tmp_path)) == 10
    assert len(find_studies(tmp_path, "soop")) == 8


def test_two_layouts_that_explain_as_much_are_ambiguous(tmp_path):
    touch(tmp_path, [*CHALLENGE, *FOSCAL[:2], "p3/ADC/ADC.nii", "p3/DWI/DWI.nii"])
    with pytest.raises(InputError, match="2 studies in the layout isles22 and 2 more in .*foscal"):
        find_studies(tmp_path)
    assert names(find_studies(tmp_path, "foscal")) == ["p1", "p3"]


def test_studies_of_a_second_layout_are_not_left_out_without_a_word(tmp_path):
    touch(tmp_path, [*CHALLENGE, "p3/ADC/ADC.nii", "p3/DWI/DWI.nii"])
    with pytest.raises(
        InputError, match="2 studies in the layout isles22 and 1 more in .*foscal.*CSV table"
    ):
        find_studies(tmp_path)
    assert len(find_studies(tmp_path, "isles22")) == 2


def relocate(cohort, home, place):
    """The cohort's first studies elsewhere; `place` names an image or mask by study and kind."""
    for number, files in enumerate(find_studies(cohort)[:3]):
        kinds = files.images | {f"{rater}_{m}": p for (rater, m), p in files.masks.items()}
        for kind, source in kinds.items():
            target = place(number, kind)
            if target:
                (home / target).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, home / target)


IN_LAYOUT = {
    "isles22": {
        "adc": "rawdata/sub-{0}/ses-1/sub-{0}_ses-1_adc.nii.gz",
        "dwi": "rawdata/sub-{0}/ses-1/sub-{0}_ses-1_dwi.nii.gz",
        "r1_dwi": "derivatives/sub-{0}/ses-1/sub-{0}_ses-1_msk.nii.gz",
    },
    "soop": {
        "adc": "sub-{0}/dwi/sub-{0}_rec-ADC_dwi.nii.gz",
        "dwi": "sub-{0}/dwi/sub-{0}_rec-TRACE_dwi.nii.gz",
        "r1_dwi": "derivatives/lesion_masks/sub-{0}/dwi/"
        "sub-{0}_space-TRACE_desc-lesion_mask.nii.gz",
    },
    "bids": {
        "adc": "sub-{0}/dwi/sub-{0}_adc.nii.gz",
        "dwi": "sub-{0}/dwi/sub-{0}_acq-trace_dwi.nii.gz",
        "r1_adc": "derivatives/r1/sub-{0}/dwi/sub-{0}_space-ADC_label-lesion_mask.nii.gz",
        "r1_dwi": "derivatives/r1/sub-{0}/dwi/sub-{0}_space-DWI_label-lesion_mask.nii.gz",
        "r2_dwi": "derivatives/r2/sub-{0}/dwi/sub-{0}_space-DWI_label-lesion_mask.nii.gz",
    },
    "apis": {
        "adc": "case_{0}/case_{0}_adc.nii.gz",
        "r1_adc": "masks/case_{0}_r1_mask.nii.gz",
        "r2_adc": "masks/case_{0}_r2_mask.nii.gz",
    },
}


@pytest.mark.parametrize("layout", IN_LAYOUT)
def test_a_cohort_in_any_layout_is_read_as_the_same_studies(cohort, tmp_path, layout):
    places = IN_LAYOUT[layout]
    relocate(cohort, tmp_path, lambda n, kind: places.get(kind, "").format(n))
    found = find_studies(tmp_path)
    assert found == find_studies(tmp_path, layout) and len(found) == 3
    for files, source in zip(found, find_studies(cohort), strict=False):
        study, expected = read_study(files), read_study(source)
        for modality, image in study.images.items():
            np.testing.assert_array_equal(image, expected.images[modality])
        for (rater, modality), mask in study.masks.items():
            drawn_on = modality if f"{rater}_{modality}" in places else "dwi"
            np.testing.assert_array_equal(mask, expected.masks[rater, drawn_on])
        assert {"adc", "dwi"} & set(places) == set(study.images) and study.masks


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
    assert "\n" not in text
    assert all(layout.looks_for in text for layout in LAYOUTS.values())
    assert "the folder holds a.txt, b.txt, c.txt, d.txt, e.txt, ...; name another" in text


def test_nothing_found_names_an_image_that_is_there(tmp_path):
    touch(tmp_path, ["one/two/._x.nii.gz", "one/two/scan 1.nii.gz"])
    with pytest.raises(InputError, match=r"holds one and images such as one/two/scan 1.nii.gz;"):
        find_studies(tmp_path)


def test_an_empty_folder_holds_nothing(tmp_path):
    with pytest.raises(InputError, match="the folder holds nothing"):
        find_studies(tmp_path)


def test_the_wrong_layout_finds_nothing(tmp_path):
    touch(tmp_path, FOSCAL)
    with pytest.raises(InputError, match="looked for isles22: [^;]*; the folder holds notes, p1"):
        find_studies(tmp_path, "isles22")


@pytest.mark.parametrize(
    ("name", "layout", "words"),
    [
        ("nowhere", "auto", "does not exist"),
        ("", "brats", "known layouts: auto, isles22, soop, apis"),
    ],
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


@pytest.mark.parametrize("folder", ["sub-7", "sub-7/dwi"])
def test_a_subject_of_soop_is_a_case(tmp_path, folder):
    touch(tmp_path, SOOP)
    (study,) = find_cases([str(tmp_path / folder)])
    assert study.study == "sub-7" and set(study.images) == {"adc", "dwi"}


def test_images_that_say_their_modality_are_a_case_wherever_they_lie(tmp_path):
    touch(tmp_path / "new", ["x_rec-ADC_dwi.nii.gz", "x_rec-TRACE_dwi.nii.gz"])
    (study,) = find_cases([str(tmp_path / "new")])
    assert {m: p.name for m, p in study.images.items()} == {
        "adc": "x_rec-ADC_dwi.nii.gz",
        "dwi": "x_rec-TRACE_dwi.nii.gz",
    }


def test_a_loop_of_links_is_no_study(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "up").symlink_to(tmp_path)
    for source in (tmp_path, tmp_path / "loop", tmp_path / "deep" / "up" / "deep"):
        with pytest.raises(InputError):
            find_studies(source)
        with pytest.raises(InputError):
            find_cases([str(source)])


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
        ("case-7_ADC.mha", None, "case-7"),
        ("p1/ADC.nii.gz", None, "p1"),
        ("nadc.nii", None, "nadc"),
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
