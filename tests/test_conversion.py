"""Studies on disk become shards, whole or not at all."""

import csv
import hashlib
import json
import shutil
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest

from tfrecord_tools.atomic import work_folder
from tfrecord_tools.conversion import convert
from tfrecord_tools.errors import InputError
from tfrecord_tools.integrity import check_shards
from tfrecord_tools.layouts import find_studies
from tfrecord_tools.reader import read_slice_pairs, read_studies
from tfrecord_tools.shards import MANIFEST, read_dataset_info

HALVES = {"train": 0.5, "test": 0.5}


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def spoiled(cohort, tmp_path):
    """The cohort with three bad studies: a NaN, a truncated mask, a DWI that is no image."""
    home = shutil.copytree(cohort, tmp_path / "home" / "cohort")
    image = nib.load(home / "phantom-002/ADC/ADC.nii.gz")
    voxels = image.get_fdata(dtype=np.float32)
    voxels[5, 5, 2] = np.nan
    nib.save(nib.Nifti1Image(voxels, image.affine), home / "phantom-002/ADC/ADC.nii.gz")
    mask = home / "phantom-004/Masks/r1/dwi.nii.gz"
    mask.write_bytes(mask.read_bytes()[:-30])
    (home / "phantom-007/DWI/DWI.nii.gz").write_bytes(b"nothing")
    return home


def with_column(cohort, column, values):
    """Fill a column of the cohort's table, and give the table."""
    path = cohort / "studies.csv"
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(row | {column: value} for row, value in zip(rows, values, strict=True))
    return path


# What is written


def test_the_manifest_counts_what_was_converted(cohort, shards):
    info = read_dataset_info(shards)
    assert {split: count["studies"] for split, count in info.counts.items()} == {
        "train": 4,
        "validation": 2,
        "test": 2,
    }
    assert info.studies.keys() == {files.study for files in find_studies(cohort)}
    assert sum(study["group"] == "control" for study in info.studies.values()) == 1
    for study in info.studies.values():
        assert study["modalities"] == ["adc", "dwi"] and len(study["masks"]) == 4
        assert 5 <= study["slices"] <= 7 and study["height"] == study["width"] == 48
        assert study["adc_scale"] == 1e-3 and not study["adc_resampled"]
        assert all((ml > 0) == (study["group"] == "stroke") for ml in study["lesion_ml"].values())


@pytest.mark.parametrize("jobs", [1, 2])
def test_the_same_seed_gives_the_same_bytes_whatever_the_jobs(cohort, shards, tmp_path, jobs):
    shares = {"train": 0.5, "validation": 0.25, "test": 0.25}
    convert(cohort, tmp_path / "again", shares=shares, jobs=jobs)
    assert contents(tmp_path / "again") == contents(shards)


def test_another_seed_gives_other_splits(cohort, tmp_path):
    splits = [
        convert(cohort, tmp_path / str(seed), shares=HALVES, seed=seed).info.splits
        for seed in (0, 1)
    ]
    assert splits[0] != splits[1]


def test_shards_keep_to_their_size_and_never_cut_a_study(cohort, tmp_path):
    size_mb = 0.4
    info = convert(cohort, tmp_path / "out", shares={"all": 1}, shard_mb=size_mb).info
    assert len(info.shards) > 2 and check_shards(tmp_path / "out") == info
    for shard in info.shards.values():
        assert shard["bytes"] < 1.1e6 * size_mb
    starts = np.cumsum([0] + [info.studies[study]["slices"] for study in info.splits["all"]])
    ends = np.cumsum([shard["records"] for shard in info.shards.values()])
    assert set(ends) <= set(starts)
    assert [study.study for study in read_studies(tmp_path / "out")] == info.splits["all"]


def test_a_shard_smaller_than_a_study_holds_one(cohort, tmp_path):
    info = convert(cohort, tmp_path / "out", shares={"all": 1}, shard_mb=1e-6).info
    assert len(info.shards) == 8


def test_progress_is_told_study_by_study(cohort, tmp_path):
    seen = []
    convert(cohort, tmp_path / "out", on_study=lambda *count: seen.append(count))
    assert seen == [(done, 8) for done in range(1, 9)]


def test_checksums_are_those_of_the_files(shards):
    for name, shard in read_dataset_info(shards).shards.items():
        content = (shards / name).read_bytes()
        assert shard["sha256"] == hashlib.sha256(content).hexdigest()
        assert shard["bytes"] == len(content)


# Splits


def test_the_splits_of_the_table_are_followed(cohort, tmp_path):
    home = shutil.copytree(cohort, tmp_path / "cohort")
    table = with_column(home, "split", ["a", "b"] * 4)
    info = convert(table, tmp_path / "out").info
    assert {split: len(names) for split, names in info.splits.items()} == {"a": 4, "b": 4}


@pytest.mark.parametrize(
    ("splits", "words"),
    [
        (["train"] * 7 + [""], "not to phantom-008; fill the column or empty it"),
        (["../../x"] * 8, "'../../x' needs another name"),
    ],
)
def test_wrong_splits_of_the_table_are_refused(cohort, tmp_path, splits, words):
    home = shutil.copytree(cohort, tmp_path / "cohort")
    with pytest.raises(InputError, match=words):
        convert(with_column(home, "split", splits), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["cohort"]


def test_a_table_that_leaks_a_patient_is_refused(cohort, tmp_path):
    home = shutil.copytree(cohort, tmp_path / "cohort")
    with_column(home, "patient", ["Jane"] * 2 + list("345678"))
    table = with_column(home, "split", ["train", "test"] + ["train"] * 6)
    with pytest.raises(InputError, match="patient Jane stands in the splits train and test"):
        convert(table, tmp_path / "out")


def test_studies_of_a_patient_go_together(cohort, tmp_path):
    home = shutil.copytree(cohort, tmp_path / "cohort")
    table = with_column(home, "patient", ["a", "a", "b", "b", "c", "c", "d", "d"])
    info = convert(table, tmp_path / "out", shares=HALVES).info
    patients = [{info.studies[s]["patient"] for s in names} for names in info.splits.values()]
    assert patients[0].isdisjoint(patients[1]) and len(patients[0]) == 2
    check_shards(tmp_path / "out")


def test_a_split_file_is_followed_and_a_wrong_one_refused(cohort, tmp_path):
    file = tmp_path / "splits.csv"
    rows = [f"phantom-00{n},{'dev' if n > 2 else 'held-out'}" for n in range(1, 9)]
    file.write_text("\n".join(["study,split", *rows]))
    info = convert(cohort, tmp_path / "out", split_file=file).info
    assert info.splits["held-out"] == ["phantom-001", "phantom-002"]
    file.write_text("\n".join(["study,split", *rows[1:]]))
    with pytest.raises(InputError, match="splits.csv names no split for phantom-001"):
        convert(cohort, tmp_path / "other", split_file=file)


# Folds


@pytest.fixture(scope="module")
def folded(cohort, tmp_path_factory):
    """Three folds of six training studies beside two test studies."""
    out = tmp_path_factory.mktemp("folds") / "out"
    convert(cohort, out, shares={"train": 0.75, "test": 0.25}, folds=3)
    return out


def test_folds_are_views_of_one_copy_of_the_records(folded):
    info = check_shards(folded)
    assert list(info.splits) == ["train", "test"]
    assert sum(shard["records"] for shard in info.shards.values()) == sum(
        study["slices"] for study in info.studies.values()
    )
    assert list(info.views) == [
        f"fold{fold}-{part}" for fold in range(3) for part in ("train", "validation")
    ]
    held_out = [info.studies_of(f"fold{fold}-validation") for fold in range(3)]
    assert sorted(sum(held_out, [])) == sorted(info.splits["train"])
    assert [len(names) for names in held_out] == [2, 2, 2]
    for fold, names in enumerate(held_out):
        training = info.studies_of(f"fold{fold}-train")
        assert sorted(training + names) == sorted(info.splits["train"])


@pytest.mark.parametrize("view", ["fold0-train", "fold1-train", "fold2-validation", "train"])
def test_a_view_is_read_like_a_split(folded, view):
    info = read_dataset_info(folded)
    studies = info.studies_of(view)
    assert [study.study for study in read_studies(folded, view)] == studies
    pairs = read_slice_pairs(folded, view)
    assert pairs.cardinality() == sum(info.studies[study]["slices"] for study in studies)
    read = dict.fromkeys(pair["study"].decode() for pair in pairs.as_numpy_iterator())
    assert list(read) == studies


def test_a_view_that_is_none_is_answered_with_the_list(folded, shards):
    with pytest.raises(InputError, match="no split 'fold3-train'; it has train, test, fold0-train"):
        next(read_studies(folded, "fold3-train"))
    with pytest.raises(InputError, match="no split 'fold0-train'"):
        next(read_studies(shards, "fold0-train"))


def test_studies_of_a_patient_share_a_fold_and_a_leak_is_found(cohort, tmp_path):
    home = shutil.copytree(cohort, tmp_path / "cohort")
    table = with_column(home, "patient", ["a", "a", "b", "b", "c", "c", "d", "d"])
    out = tmp_path / "out"
    info = convert(table, out, folds=2).info
    patients = [{info.studies[s]["patient"] for s in fold} for fold in info.folds]
    assert patients[0].isdisjoint(patients[1]) and check_shards(out) == info
    content = json.loads((out / MANIFEST).read_text())
    for fold in content["folds"]:
        content["studies"][fold[0]]["patient"] = "Nobody"
    (out / MANIFEST).write_text(json.dumps(content))
    with pytest.raises(InputError, match="patient Nobody stands in"):
        check_shards(out)


def test_folds_are_the_same_whatever_the_jobs(cohort, folded, tmp_path):
    convert(cohort, tmp_path / "out", shares={"train": 0.75, "test": 0.25}, folds=3, jobs=2)
    assert contents(tmp_path / "out") == contents(folded)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"folds": 1}, "1 folds cannot be made"),
        ({"folds": 9}, "9 folds cannot be made of 8 patients"),
        ({"folds": 2, "shares": {"a": 1.0}}, "--folds divides the split train"),
    ],
    ids=str,
)
def test_impossible_folds_are_refused(cohort, tmp_path, options, words):
    with pytest.raises(InputError, match=words):
        convert(cohort, tmp_path / "out", **options)
    assert not list(tmp_path.iterdir())


def test_impossible_shares_are_refused_before_a_study_is_looked_for(tmp_path):
    with pytest.raises(InputError, match="shares must sum to 1"):
        convert(tmp_path / "nowhere", tmp_path / "out", shares={"train": 0.5, "test": 0.4})


# Bad studies


def test_an_image_under_two_ids_is_refused(cohort, tmp_path):
    home = shutil.copytree(cohort, tmp_path / "home" / "cohort")
    shutil.rmtree(home / "phantom-006")
    shutil.copytree(home / "phantom-003", home / "phantom-006")
    with pytest.raises(InputError, match="1 of 8.*006 has the ADC and DWI of study phantom-003"):
        convert(home, tmp_path / "out")
    report = convert(home, tmp_path / "out", skip_bad=True)
    assert report.skipped.keys() == {"phantom-006"} and len(report.info.studies) == 7
    assert read_dataset_info(tmp_path / "out").left_out == {"phantom-006": ["duplicate"]}


def test_warnings_are_remarked_and_kept_without_a_path(cohort, tmp_path):
    home = shutil.copytree(cohort, tmp_path / "home" / "cohort")
    for mask in (home / "phantom-002/Masks").glob("*/*.nii.gz"):
        image = nib.load(mask)
        nib.save(nib.Nifti1Image(np.zeros(image.shape, np.uint8), image.affine), mask)
    report = convert(home / "studies.csv", tmp_path / "out")
    kept = [w for w in read_dataset_info(tmp_path / "out").warnings if w["code"] == "mask-empty"]
    assert {warning["study"] for warning in kept} == {"phantom-002"}
    assert any("phantom-002: mask-empty: " in remark for remark in report.remarks)
    assert str(tmp_path) not in (tmp_path / "out" / MANIFEST).read_text()


@pytest.mark.parametrize("jobs", [1, 2])
def test_all_bad_studies_are_named_at_once_and_nothing_is_written(spoiled, tmp_path, jobs):
    with pytest.raises(InputError) as refusal:
        convert(spoiled, tmp_path / "out", jobs=jobs)
    text = str(refusal.value)
    assert text.startswith("3 of 8 studies cannot be converted, so nothing was written")
    assert "--skip-bad" in text and "\n" not in text
    for study, path, reason in [
        ("phantom-002", "phantom-002/ADC/ADC.nii.gz", "has 1 voxels that are NaN"),
        ("phantom-004", "phantom-004/Masks/r1/dwi.nii.gz", "cannot be read"),
        ("phantom-007", "phantom-007/DWI/DWI.nii.gz", "cannot be read"),
    ]:
        assert f"{study}: {spoiled / path} {reason}" in text
    assert not (tmp_path / "out").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_bad_studies_are_left_out_on_request(spoiled, tmp_path):
    report = convert(spoiled, tmp_path / "out", skip_bad=True)
    assert report.skipped.keys() == {"phantom-002", "phantom-004", "phantom-007"}
    assert len(report.info.studies) == 5
    assert check_shards(tmp_path / "out") == report.info


def test_a_row_whose_file_is_missing_is_a_bad_study(cohort, tmp_path):
    home = shutil.copytree(cohort, tmp_path / "cohort")
    (home / "phantom-003/ADC/ADC.nii.gz").unlink()
    (home / "phantom-005/Masks/r2/adc.nii.gz").unlink()
    with pytest.raises(InputError, match="2 of 8.*003.*does not exist.*005.*does not exist"):
        convert(home / "studies.csv", tmp_path / "out")
    report = convert(home / "studies.csv", tmp_path / "out", skip_bad=True)
    assert report.skipped.keys() == {"phantom-003", "phantom-005"}


def test_skipping_every_study_is_refused(spoiled, tmp_path):
    for study in spoiled.glob("phantom-*"):
        (study / "DWI/DWI.nii.gz").write_bytes(b"nothing")
    with pytest.raises(InputError, match="8 of 8 studies"):
        convert(spoiled, tmp_path / "out", skip_bad=True)
    assert not (tmp_path / "out").exists()


def test_what_a_study_lacks_is_remarked(cohort, tmp_path):
    home = shutil.copytree(cohort, tmp_path / "cohort")
    shutil.rmtree(home / "phantom-001/DWI")
    shutil.rmtree(home / "phantom-002/Masks")
    remarks = convert(home, tmp_path / "out").remarks
    assert sorted(remarks) == [
        "phantom-001: no dwi, so of use to unimodal adc only",
        "phantom-002: no mask, so of no use to training or evaluation",
    ]


# Whole or not at all


def test_an_existing_output_is_replaced_on_request_only(cohort, shards, tmp_path):
    out = shutil.copytree(shards, tmp_path / "out")
    before = contents(out)
    with pytest.raises(InputError, match="out exists.*--overwrite"):
        convert(cohort, out)
    assert contents(out) == before
    convert(cohort, out, shares={"all": 1}, overwrite=True)
    assert list(read_dataset_info(out).splits) == ["all"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_interrupt_loses_nothing_that_is_finished(cohort, shards, tmp_path, jobs):
    out = shutil.copytree(shards, tmp_path / "out")
    before = contents(out)

    def interrupt(done, total):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(cohort, out, jobs=jobs, overwrite=True, on_study=interrupt)
    assert contents(out) == before
    assert {path.name for path in tmp_path.iterdir()} == {"out", work_folder(out).name}
    shares = {"train": 0.5, "validation": 0.25, "test": 0.25}
    resumed = []
    convert(cohort, out, shares=shares, jobs=jobs, overwrite=True, on_resume=resumed.append)
    assert resumed[0] >= 3 and contents(out) == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_full_disk_is_said_and_leaves_nothing(cohort, tmp_path):
    resource = pytest.importorskip("resource", reason="limits of file sizes are POSIX's")
    import signal

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        with pytest.raises(InputError, match="tfrecord cannot be written .*too large"):
            convert(cohort, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"shares": {"train": 0.5}}, "sum to 1"),
        ({"layout": "brats"}, "known layouts"),
        ({"layout": "isles22"}, "no study found"),
        ({"adc_unit": "furlong"}, "unknown ADC unit"),
        ({"jobs": 0}, "must be positive"),
        ({"shard_mb": float("nan")}, "must be positive"),
    ],
)
def test_wrong_options_are_refused_and_leave_nothing(cohort, tmp_path, options, words):
    with pytest.raises(InputError, match=words):
        convert(cohort, tmp_path / "out", **options)
    assert not list(tmp_path.iterdir())


def test_the_cohort_itself_is_never_overwritten(cohort, tmp_path):
    home = shutil.copytree(cohort, tmp_path / "cohort")
    with pytest.raises(InputError, match=f"not replaced: it has no {MANIFEST}"):
        convert(home, home, overwrite=True)
    assert len(find_studies(home)) == 8


# Imports


def test_reading_and_finding_studies_needs_no_tensorflow():
    """Worker processes and `--help` start fast because of it."""
    modules = "study, layouts, conversion, phantom.cohort, extraction, reader, shards, schema"
    named = ", ".join(f"tfrecord_tools.{module}" for module in modules.split(", "))
    code = f"import sys, {named}; print('tensorflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
