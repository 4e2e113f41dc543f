"""No study id, patient or rater, however it is spelt, reaches a file outside the output."""

import os
import string
import sys

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from strokeseg_tf.cohort import predict_cohort
from tfrecord_tools.conversion import convert
from tfrecord_tools.errors import InputError
from tfrecord_tools.extraction import extract
from tfrecord_tools.layouts import find_studies
from tfrecord_tools.names import file_name
from tfrecord_tools.shards import read_dataset_info
from tfrecord_tools.table import read_table, write_table

#: Ids as a table can hold them; what `..` and `/` would reach is made beside the output.
NASTY = [
    *("..", ".", "...", "../../escape", "../out2", "/etc/cron.d/evil", "a/b", "a//b", "a\\b"),
    *("C:\\evil", "~", "~root", "-rf", "--overwrite", "*", "$(id)", "a;b", "a|b", "%2e%2e%2f"),
    *("con", "aux.nii", "Étude 1", "E\u0301tude 1", "患者", "😀", "x" * 300, "ü" * 300, "study "),
    *("a" * 79 + "é", "studies.csv", "dataset_info.json", "predictions.json", "x.tfrecord"),
]
NASTY = [name.strip() for name in NASTY]


class Bright:
    """Predicts the brighter half of each image."""

    modalities, threshold, version, computed_by = ("adc", "dwi"), 0.5, None, "a test"

    def predict(self, images):
        """1 above the mean."""
        return {m: (image > image.mean()).astype(np.float32) for m, image in images.items()}


def test_every_name_stays_in_its_folder_and_is_its_own():
    for name in NASTY:
        written = file_name(name)
        assert os.path.basename(written) == written and written not in ("", ".", "..")
        assert written[0] not in ".-~" and len(written.encode()) <= 90
        assert not set(written) & set('/\\:*?"<>|$;&\0\n %')
    assert len({file_name(name) for name in NASTY}) == len(NASTY)


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_whatever_the_text_its_name_stays(study):
    written = file_name(study)
    assert os.path.basename(os.path.normpath(os.path.join("out", written))) == written
    assert written[0] not in ".-" and len(written.encode()) <= 90


@given(st.text(string.ascii_letters + string.digits + "_", min_size=1, max_size=60))
def test_a_harmless_id_is_its_own_name(study):
    assert file_name(study) == study


@pytest.fixture(scope="module")
def nasty_table(cohort, tmp_path_factory):
    """The cohort under nasty ids, of nasty patients, drawn on by a nasty rater."""
    home = tmp_path_factory.mktemp("nasty") / "source"
    home.mkdir()
    sources = find_studies(cohort)
    lines = ["study,adc,dwi,mask_adc_../../rater,patient"]
    for number, name in enumerate(NASTY):
        files = sources[number % len(sources)]
        paths = [next(iter(files.masks.values()))]
        for modality, source in reversed(files.images.items()):
            image = nibabel.load(source)
            voxels = np.array(image.dataobj)
            voxels[0, 0, 0] = number  # No image stands under two ids.
            paths.insert(0, home / f"{number}_{modality}.nii.gz")
            nibabel.save(nibabel.Nifti1Image(voxels, image.affine), paths[0])
        row = [name, *map(str, paths), f"../{name}"]
        lines.append(",".join('"' + cell.replace('"', '""') + '"' for cell in row))
    (home / "studies.csv").write_text("\n".join(lines), encoding="utf-8")
    return home / "studies.csv"


def inside(folder, home):
    """All files below `home`, each of which lies in `folder`."""
    files = [path for path in home.rglob("*") if not path.is_dir()]
    assert files and all(folder in path.parents for path in files), files
    return files


def test_no_file_of_a_conversion_or_extraction_leaves_its_folder(nasty_table, tmp_path):
    home = tmp_path / "deep" / "er"
    home.mkdir(parents=True)
    convert(nasty_table, home / "shards", shares={"train": 1})
    inside(home / "shards", tmp_path)
    assert sorted(read_dataset_info(home / "shards").splits["train"]) == sorted(NASTY)
    extract(home / "shards", home / "out")
    for path in inside(home, tmp_path):
        assert home / "shards" in path.parents or home / "out" in path.parents
    again = {files.study: files for files in read_table(home / "out" / "studies.csv")}
    assert again.keys() == set(NASTY)
    for name, files in again.items():
        assert files.patient == f"../{name}" and set(files.masks) == {("../../rater", "adc")}
        assert all(path.is_file() for path in (*files.images.values(), *files.masks.values()))


def test_no_file_of_a_prediction_leaves_its_folder(nasty_table, tmp_path):
    home = tmp_path / "deep" / "er"
    home.mkdir(parents=True)
    files = find_studies(nasty_table)
    result = predict_cohort(Bright(), files, home / "out", model="bright")
    assert result["studies"].keys() == set(NASTY) and not result["failed"]
    assert len(inside(home / "out", tmp_path)) == 2 * len(NASTY) + 1
    assert all(path.parent == home / "out" for path in inside(home / "out", tmp_path))


def test_a_nasty_table_written_is_the_table_read(nasty_table, tmp_path):
    studies = read_table(nasty_table)
    write_table(tmp_path / "studies.csv", studies)
    again = read_table(tmp_path / "studies.csv")
    assert [(s.study, s.patient) for s in again] == [(s.study, s.patient) for s in studies]


@pytest.mark.parametrize("split", ["../evil", "/tmp/evil", "a b", "..", "a" * 99])
def test_a_split_that_names_a_path_is_refused(cohort, tmp_path, split):
    studies = find_studies(cohort)[:2]
    write_table(tmp_path / "studies.csv", studies, {s.study: split for s in studies})
    with pytest.raises(InputError, match="split"):
        convert(tmp_path / "studies.csv", tmp_path / "deep" / "out")
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["studies.csv"]
    assert not (tmp_path / "deep" / "out").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="needs a file system of bytes")
def test_a_folder_whose_name_is_no_text_is_refused_in_one_line(cohort, tmp_path):
    for name in (b"st\xffudy", b"st\nudy"):
        home = tmp_path / name.hex()
        source = find_studies(cohort)[0].images["adc"]
        folder = os.path.join(os.fsencode(home), name, b"ADC")
        os.makedirs(folder)
        os.symlink(source, os.path.join(folder, b"ADC.nii.gz"))
        with pytest.raises(InputError, match="unprintable") as refusal:
            find_studies(home)
        assert "\n" not in str(refusal.value)
