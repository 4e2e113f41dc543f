"""From DICOM to masks, and back to DICOM: no identifier but where it was asked for."""

import json
import tempfile
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest

from strokeseg_tf.cli import main
from strokeseg_tf.config import SMALL
from strokeseg_tf.models.variants import build_model
from strokeseg_tf.prediction.dicom_seg import build_segmentation
from strokeseg_tf.prediction.sources import open_sources
from strokeseg_tf.prediction.study import Prediction
from tfrecord_tools.errors import InputError
from tfrecord_tools.study import read_study

SERIES = ("siemens_xa30", "canon_classic", "canon_enhanced")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    import keras

    keras.utils.set_random_seed(0)
    path = tmp_path_factory.mktemp("model") / "model.keras"
    settings = SMALL.replace(model={"filters": [2], "bottleneck": 3, "image_size": 16}).model
    build_model(settings).save(path)
    return path


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """Where temporary folders are made while a test runs."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def predict(*words):
    return main(["predict", *map(str, words)])


def named(source, out, patient):
    """A copy of a DICOM tree that names a patient in its headers and paths."""
    for path in sorted(source.rglob("*.dcm")):
        dataset = pydicom.dcmread(path)
        dataset.PatientName, dataset.PatientID = patient, f"{patient}-77"
        copy = out / patient / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        dataset.save_as(copy)
    return out / patient


def test_a_scanner_folder_gives_masks_without_a_name(model, real_data, tmp_path, temporary, capsys):
    source = named(real_data / "dicom" / "siemens_xa30", tmp_path, "Zyxwvut")
    out = tmp_path / "out"
    assert predict(model, source, "-o", out, "--probabilities", "--threshold", "0.01") == 0
    assert list(temporary.iterdir()) == []
    (study,) = json.loads((out / "predictions.json").read_text())["studies"]
    mask = nibabel.load(out / f"{study}_dwi_mask.nii.gz")
    assert mask.shape == (72, 72, 39)
    captured = capsys.readouterr()
    told = captured.out.replace(str(out), "") + captured.err
    written = b"".join(p.read_bytes() for p in out.iterdir() if p.suffix == ".json")
    written += b"".join(bytes(nibabel.load(p).header.binaryblock) for p in out.glob("*.nii.gz"))
    uid = pydicom.dcmread(next(source.rglob("*.dcm")), stop_before_pixels=True).StudyInstanceUID
    for word in ("zyxwvut", str(uid), str(temporary)):
        assert word.lower() not in told.lower() and word.lower().encode() not in written.lower()


def test_nothing_stays_when_nothing_can_be_predicted(model, real_data, tmp_path, temporary, capsys):
    source = tmp_path / "dicom"
    source.mkdir()
    path = next((real_data / "dicom" / "siemens_xa30" / "11").iterdir())
    (source / "adc.dcm").write_bytes(path.read_bytes())
    assert predict(model, source, "-o", tmp_path / "out") == 2
    assert "there is no dwi" in capsys.readouterr().err
    assert list(temporary.iterdir()) == [] and not (tmp_path / "out").exists()


@pytest.fixture(scope="module", params=SERIES)
def converted(request, real_data):
    """A study from DICOM, and the files that each of its images comes from."""
    with open_sources([str(real_data / "dicom" / request.param)]) as sources:
        (files,) = sources.files
        yield read_study(files, adc_unit="1e-3"), sources.series[files.study]


@pytest.mark.parametrize("modality", ["adc", "dwi"])
def test_a_segmentation_lies_on_its_source_pixel_by_pixel(converted, modality, tmp_path):
    study, series = converted
    grid = study.own_grid(modality)
    mask = np.random.default_rng(0).random(grid.shape) > 0.98
    mask[:, :, 5] = False
    prediction = Prediction(mask.astype(np.float32), mask, 1, grid)
    path = tmp_path / "seg.dcm"
    build_segmentation(prediction, series[modality], modality).save_as(path)
    segmentation = pydicom.dcmread(path)
    source = pydicom.dcmread(series[modality][0], stop_before_pixels=True)
    for name in ("StudyInstanceUID", "PatientID", "PatientName", "FrameOfReferenceUID"):
        assert segmentation[name].value == source[name].value
    assert segmentation.SeriesInstanceUID != source.SeriesInstanceUID
    referred = segmentation.ReferencedSeriesSequence[0]
    assert referred.SeriesInstanceUID == source.SeriesInstanceUID
    assert segmentation.NumberOfFrames == grid.shape[2] - 1  # Empty ones are left out.
    shared = segmentation.SharedFunctionalGroupsSequence[0]
    axes = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float)
    spacing = np.array(shared.PixelMeasuresSequence[0].PixelSpacing, float)
    to_voxels, seen = np.linalg.inv(grid.affine), np.zeros(grid.shape, bool)
    frames = segmentation.PerFrameFunctionalGroupsSequence
    for pixels, frame in zip(segmentation.pixel_array, frames, strict=True):
        origin = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, float)
        rows, columns = np.nonzero(pixels)
        places = origin + np.outer(rows * spacing[0], axes[3:]) + np.outer(
            columns * spacing[1], axes[:3]
        )  # fmt: skip
        voxels = nibabel.affines.apply_affine(to_voxels, places * [-1, -1, 1])
        assert np.abs(voxels - np.rint(voxels)).max() < 0.01
        seen[tuple(np.rint(voxels).astype(int).T)] = True
    np.testing.assert_array_equal(seen, mask)


def test_an_empty_mask_makes_a_segmentation_too(converted):
    study, series = converted
    mask = np.zeros(study.grid.shape, bool)
    prediction = Prediction(mask.astype(np.float32), mask, 0, study.grid)
    assert not build_segmentation(prediction, series["dwi"], "dwi").pixel_array.any()


def test_a_mask_on_another_grid_is_refused(converted):
    study, series = converted
    mask = np.zeros([size // 2 for size in study.grid.shape], bool)
    grid = type(study.grid)(mask.shape, study.grid.affine)
    with pytest.raises(InputError, match="do not lie where"):
        build_segmentation(Prediction(mask, mask, 0, grid), series["dwi"], "dwi")


def test_the_command_writes_them_when_asked(model, real_data, tmp_path):
    out, source = tmp_path / "out", real_data / "dicom" / "canon_classic"
    line = [model, source, "-o", out, "--dicom-seg", "--no-figures", "--threshold", "0.0099"]
    assert predict(*line) == 0
    for modality in ("adc", "dwi"):
        (path,) = out.glob(f"*_{modality}_seg.dcm")
        count = pydicom.dcmread(path).pixel_array.sum()
        mask = nibabel.load(Path(str(path).replace("_seg.dcm", "_mask.nii.gz")))
        assert count == np.asarray(mask.dataobj).sum()
