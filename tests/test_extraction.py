"""What comes out of the shards is what went in."""

import shutil

import nibabel as nib
import numpy as np
import pytest

from strokeseg_tf.cli import main
from tfrecord_tools.conversion import convert
from tfrecord_tools.errors import InputError
from tfrecord_tools.extraction import extract
from tfrecord_tools.grid import Grid
from tfrecord_tools.layouts import find_studies, foscal_files
from tfrecord_tools.nifti import read_mask, read_volume, write_volume
from tfrecord_tools.study_files import StudyFiles
from tfrecord_tools.table import read_table, write_table


def assert_same_files(extracted, source):
    """Voxels equal to float32, masks to the voxel, affines to their stored precision."""
    assert (extracted.study, extracted.patient) == (source.study, source.patient)
    assert extracted.images.keys() == source.images.keys()
    assert extracted.masks.keys() == source.masks.keys()
    for read, found, wanted in (
        (read_volume, extracted.images, source.images),
        (read_mask, extracted.masks, source.masks),
    ):
        for key in wanted:
            volume, grid = read(found[key])
            expected, expected_grid = read(wanted[key])
            np.testing.assert_array_equal(volume, expected)
            np.testing.assert_allclose(grid.affine, expected_grid.affine, rtol=1e-6, atol=1e-6)


def test_a_phantom_cohort_comes_back_equal(cohort, shards, tmp_path):
    out = extract(shards, tmp_path / "out")
    extracted = {files.study: files for files in read_table(out / "studies.csv")}
    sources = read_table(cohort / "studies.csv")
    assert extracted.keys() == {source.study for source in sources}
    for source in sources:
        assert_same_files(extracted[source.study], source)
        assert extracted[source.study].group == source.group


def test_the_real_cases_come_back_equal(isles22, tmp_path):
    convert(isles22, tmp_path / "shards")
    extract(tmp_path / "shards", tmp_path / "out")
    extracted = {files.study: files for files in read_table(tmp_path / "out" / "studies.csv")}
    for source in find_studies(isles22):
        assert_same_files(extracted[source.study], source)
        for modality, path in source.images.items():
            found = nib.load(extracted[source.study].images[modality])
            np.testing.assert_allclose(found.affine, nib.load(path).affine, atol=1e-6)


def test_what_was_extracted_converts_to_the_same_records(shards, tmp_path):
    out = extract(shards, tmp_path / "out")
    info = convert(out / "studies.csv", tmp_path / "again").info
    for name, shard in info.shards.items():
        assert (tmp_path / "again" / name).read_bytes() == (shards / name).read_bytes(), shard


def test_a_resampled_adc_is_told_and_all_else_comes_back_equal(cohort, tmp_path, capsys):
    home = shutil.copytree(cohort, tmp_path / "home" / "cohort")
    (source,) = (f for f in read_table(home / "studies.csv") if f.study == "phantom-002")
    image = nib.load(source.images["adc"])
    nib.save(image.slicer[:, :, :-1], source.images["adc"])
    for (_, modality), path in source.masks.items():
        if modality == "adc":
            nib.save(nib.load(path).slicer[:, :, :-1], path)
    convert(home / "studies.csv", tmp_path / "shards")
    command = ["inspect", str(tmp_path / "shards"), "--extract", str(tmp_path / "out")]
    assert main(command) == 0
    assert "the ADC of 1 of 8 studies was resampled at conversion" in capsys.readouterr().err
    (found,) = (f for f in read_table(tmp_path / "out/studies.csv") if f.study == "phantom-002")
    dwi, grid = read_volume(found.images["dwi"])
    np.testing.assert_array_equal(dwi, read_volume(source.images["dwi"])[0])
    assert read_volume(found.images["adc"])[1].agrees(grid)


def test_extraction_is_whole_or_not_at_all(shards, tmp_path):
    damaged = shutil.copytree(shards, tmp_path / "shards")
    path = damaged / "test-00000-of-00001.tfrecord"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(InputError, match="test-00000-of-00001.tfrecord is damaged"):
        extract(damaged, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["shards"]


def test_an_earlier_extraction_is_replaced_on_request_only(shards, tmp_path):
    out = extract(shards, tmp_path / "out")
    with pytest.raises(InputError, match="--overwrite"):
        extract(shards, out)
    extract(shards, out, overwrite=True)
    with pytest.raises(InputError, match="not replaced"):
        extract(shards, shards, overwrite=True)


HOSTILE = ["../../x", "..", "/absolute/path", "a b/ç", "é" * 300, "x" * 300, ".hidden", "𝔸" * 70]


def test_no_hostile_id_escapes_the_output(tmp_path):
    """Studies and raters are named by others: neither leaves the folder, none is lost."""
    rng = np.random.default_rng(0)
    grid = Grid((6, 5, 3), np.diag([0.9, 0.9, 6, 1]))
    home = tmp_path / "source"
    studies = []
    for index, name in enumerate(HOSTILE):
        files = foscal_files(home / str(index), ("adc",), [("r1", "adc")])
        write_volume(files.images["adc"], rng.uniform(0.7, 1.1, grid.shape), grid)
        write_volume(files.masks["r1", "adc"], rng.random(grid.shape) > 0.5, grid)
        masks = {("../../../evil", "adc"): files.masks["r1", "adc"]}
        studies.append(StudyFiles(name, files.images, masks))
    write_table(home / "studies.csv", studies)
    convert(home / "studies.csv", tmp_path / "shards", shares={"all": 1})
    before = {path for path in tmp_path.rglob("*")}
    out = extract(tmp_path / "shards", tmp_path / "deep" / "er" / "out")
    new = {path for path in tmp_path.rglob("*")} - before
    assert all(out == path or out in path.parents or path in out.parents for path in new)
    extracted = {files.study: files for files in read_table(out / "studies.csv")}
    assert extracted.keys() == set(HOSTILE)
    for source in studies:
        assert_same_files(extracted[source.study], source)
