"""DICOM -> ADC and DWI: the right images, the right numbers, and not a word about the patient."""

import gzip
import json
import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from dicoms import (
    PLANTED,
    edit,
    images,
    private,
    say_as_ge,
    say_as_philips,
    say_as_uih,
    scale_as_philips,
    write_enhanced,
    write_series,
    write_study,
)

from strokeseg_tf.cli import main
from tfrecord_tools.adc_unit import find_brain
from tfrecord_tools.conversion import convert
from tfrecord_tools.dicom.conversion import convert_dicom
from tfrecord_tools.dicom.files import find_dicom
from tfrecord_tools.dicom.kinds import find_b_value, find_kind
from tfrecord_tools.dicom.program import ConversionFailed, find_program
from tfrecord_tools.dicom.series import group_series
from tfrecord_tools.dicom.volumes import convert_series
from tfrecord_tools.diffusion import HIGHEST_ADC, derive_adc, geometric_mean
from tfrecord_tools.errors import InputError
from tfrecord_tools.layouts import find_studies
from tfrecord_tools.lint.cohort import lint
from tfrecord_tools.nifti import read_volume


@pytest.fixture(scope="session")
def dicom(real_data) -> Path:
    """Real DICOM of two scanners."""
    return real_data / "dicom"


@pytest.fixture(scope="session")
def outputs(dicom, tmp_path_factory) -> dict:
    """(report, output) of the whole tree ("") and of each of its folders alone."""
    home = tmp_path_factory.mktemp("outputs")
    folders = ("", "canon_classic", "canon_enhanced", "siemens_xa30")
    return {f: (convert_dicom(dicom / f, home / f"{f}.out"), home / f"{f}.out") for f in folders}


def copy(source, target):
    """A copy that may be written to, whatever the source's permissions."""
    shutil.copytree(source, target, copy_function=shutil.copyfile)
    for path in [target, *target.rglob("*")]:
        path.chmod(path.stat().st_mode | stat.S_IWUSR)
    return target


def only(out):
    """The files of the one study in an output."""
    (study,) = find_studies(out)
    return study


def sidecar(path):
    return json.loads(path.with_name(path.name.replace(".nii.gz", ".json")).read_text())


def voxels(path):
    return np.asanyarray(nibabel.load(path).dataobj)


# Against what the converter's authors publish


@pytest.mark.parametrize(
    ("folder", "reference"),
    [
        ("canon_enhanced", "canon/3000_DTI_PA-ortho_enh.nii.gz"),
        ("canon_classic", "canon/3000_DTI_PA-ortho_enh.nii.gz"),
        ("siemens_xa30/11", "siemens_xa30/11_DWI_dir80_PA.nii"),
        ("siemens_xa30/12", "siemens_xa30/12_DWI_dir80_PA.nii"),
        ("siemens_xa30/16", "siemens_xa30/16_DWI_dir80_PA.nii"),
    ],
)
def test_series_have_the_voxels_affines_and_b_values_of_the_reference(
    dicom, folder, reference, tmp_path
):
    expected = nibabel.load(dicom / "reference" / reference)
    stack = np.asanyarray(expected.dataobj).reshape(*expected.shape[:3], -1)
    b_values = {"canon": [0.0] + [1500.0] * 12, "siemens_xa30/12": [2500.0]}
    b_values = b_values.get("canon" if "canon" in folder else folder, [0.0])
    found = []
    for index, series in enumerate(group_series(find_dicom(dicom / folder).files)):
        work = tmp_path / str(index)
        work.mkdir()
        found += convert_series(series, work, program=find_program(), timeout_s=60)
    ours = np.concatenate([volumes.stack for volumes in found], axis=3)
    # The classic files are the first two volumes of the whole series.
    assert ours.shape[3] == (2 if folder == "canon_classic" else stack.shape[3])
    np.testing.assert_array_equal(ours, stack[..., : ours.shape[3]])
    said = [volumes.b_value for volumes in found for _ in range(volumes.directions)]
    assert said == ([None] if folder.endswith("11") else b_values[: len(said)])
    for volumes in found:
        np.testing.assert_allclose(volumes.grid.affine, expected.affine, atol=1e-5)


def test_what_is_written_is_the_reference_and_the_mean_over_its_directions(dicom, outputs):
    reference = nibabel.load(dicom / "reference" / "canon" / "3000_DTI_PA-ortho_enh.nii.gz")
    stack = np.asanyarray(reference.dataobj)
    expected = {
        "canon_enhanced": geometric_mean(np.moveaxis(stack[..., 1:], 3, 0)).astype(np.float32),
        "canon_classic": stack[..., 1],
    }
    for folder, dwi in expected.items():
        images = only(outputs[folder][1]).images
        np.testing.assert_array_equal(voxels(images["dwi"]), dwi)
        derived = derive_adc(dwi, stack[..., 0], 1500)
        np.testing.assert_array_equal(voxels(images["adc"]), derived)
        for path in images.values():
            np.testing.assert_allclose(nibabel.load(path).affine, reference.affine, atol=1e-5)
    for modality, number in (("adc", 11), ("dwi", 12)):
        expected = nibabel.load(dicom / "reference" / "siemens_xa30" / f"{number}_DWI_dir80_PA.nii")
        written = nibabel.load(only(outputs["siemens_xa30"][1]).images[modality])
        assert written.get_data_dtype() == expected.get_data_dtype()
        np.testing.assert_array_equal(voxels(written.get_filename()), expected.dataobj)
        np.testing.assert_array_equal(written.affine, expected.affine)


def test_derived_adc_is_the_vendors(dicom, tmp_path):
    """r >= 0.999 and slope within 1 % over the brain (where DWI is brighter than its mean)."""
    source = tmp_path / "without_map"
    for number in ("12", "16"):
        copy(dicom / "siemens_xa30" / number, source / number)
    report = convert_dicom(source, tmp_path / "out")
    files = only(tmp_path / "out")
    assert report.studies[0].images["adc"]["ADC"] == "derived"
    assert report.studies[0].images["adc"]["DerivedFromBValues"] == [0, 2500]
    vendor, _ = read_volume(dicom / "reference" / "siemens_xa30" / "11_DWI_dir80_PA.nii")
    derived, _ = read_volume(files.images["adc"])
    dwi, _ = read_volume(files.images["dwi"])
    brain = find_brain({"dwi": dwi})
    slope, intercept = np.polyfit(vendor[brain], derived[brain], 1)
    through_0 = (vendor[brain] @ derived[brain]) / (vendor[brain] @ vendor[brain])
    r = np.corrcoef(vendor[brain], derived[brain])[0, 1]
    print(f"r = {r:.5f}, slope = {slope:.4f} ({through_0:.4f} through 0), {brain.sum()} voxels")
    assert r >= 0.999
    assert abs(slope - 1) <= 0.01 and abs(through_0 - 1) <= 0.01 and abs(intercept) < 5


def test_the_whole_tree_is_two_studies_each_as_it_is_alone(outputs):
    report, out = outputs[""]
    assert (report.failed, report.damaged) == ({}, 0) and report.foreign > 0
    assert sorted(s.images["dwi"]["DiffusionBValue"] for s in report.studies) == [1500, 2500]
    # Of the Canon series that lies there twice the one with more directions is taken.
    alone = {outputs[f][0].studies[0].study: f for f in ("canon_enhanced", "siemens_xa30")}
    assert {study.study for study in report.studies} == set(alone)
    for study, folder in alone.items():
        for name in ("ADC/ADC.nii.gz", "DWI/DWI.nii.gz"):
            one, other = (home / study / name for home in (out, outputs[folder][1]))
            assert one.read_bytes() == other.read_bytes()


def test_two_patients_mixed_in_one_flat_folder_under_odd_names(dicom, outputs, tmp_path):
    flat = tmp_path / "flat ;$(touch x) -o &"
    flat.mkdir()
    sources = [*(dicom / "canon_classic").iterdir(), *(dicom / "siemens_xa30").rglob("*.dcm")]
    for index, path in enumerate(sorted(sources, key=lambda path: path.name)):
        name = ["a b", "-rf", "é", '"q"', "%s%d", "$HOME", "x.nii.gz"][index % 7]
        shutil.copyfile(path, flat / f"{name}{index}")
    (flat / os.fsdecode(b"\xff\xfe")).write_bytes(b"no DICOM")
    (flat / "empty").touch()
    (flat / "dangling").symlink_to("nowhere")
    report = convert_dicom(flat, tmp_path / "out")
    assert report.failed == {} and (report.dicom, report.foreign) == (83, 2)
    for folder in ("canon_classic", "siemens_xa30"):
        (study,), alone = outputs[folder][0].studies, outputs[folder][1]
        assert study.study in {s.study for s in report.studies}
        for name in ("ADC/ADC.nii.gz", "DWI/DWI.nii.gz", "ADC/ADC.json", "DWI/DWI.json"):
            mixed = tmp_path / "out" / study.study / name
            assert mixed.read_bytes() == (alone / study.study / name).read_bytes()
    assert not (tmp_path / "x").exists() and not Path("x").exists()


@pytest.mark.parametrize("layout", ["foscal", "bids"])
def test_real_studies_go_through_lint_and_convert(dicom, outputs, tmp_path, layout, capsys):
    out = outputs[""][1]
    if layout == "bids":
        out = tmp_path / "out"
        assert main(["dicom", str(dicom), str(out), "--layout", layout]) == 0
        printed = capsys.readouterr()
        assert "vendor" in printed.out and "derived" in printed.out and "b = 2500" in printed.err
    checked = lint(out)
    assert not checked.refused
    assert {f.code for f in checked.findings if f.severity == "warning"} == {"b-value"}
    convert(out, tmp_path / "shards", shares={"train": 1.0})
    info = json.loads((tmp_path / "shards" / "dataset_info.json").read_text())
    assert [study["adc_scale"] for study in info["studies"].values()] == [1e-3, 1e-3]


# Privacy


def contents(folder):
    """Every byte of an output, decompressed, and every name in it."""
    for path in folder.rglob("*"):
        yield str(path.relative_to(folder)).encode()
        if path.is_file():
            data = path.read_bytes()
            yield gzip.decompress(data) if path.name.endswith(".gz") else data


def secrets_of(planted):
    """The planted values, and each of their words, as bytes of two encodings."""
    words = {w for v in planted.values() for w in (v, *re.split(r"[\^ ]", v)) if len(w) > 3}
    words |= {"2019-08-23", "1943-02-17", "13:17:19"}
    return {word.encode(code) for word in words for code in ("utf-8", "utf-16-le")}


def assert_silent(haystack, secrets):
    for data in haystack:
        for secret in secrets:
            assert secret.lower() not in data.lower(), secret


@pytest.mark.parametrize("layout", ["foscal", "bids"])
def test_no_word_of_a_patient_reaches_an_output(tmp_path, layout, capsys):
    planted = PLANTED | {"SoftwareVersions": "syngo for Zwetschgenbaum"}
    home = tmp_path / "Zwetschgenbaum_Adalbert" / "MRN-7764201"
    write_study(home / "20190823", with_adc=False, **planted)
    write_study(home / "later", seed=1, study="1.2.826.7764", **planted)
    # A third study fails, and a file is damaged: messages are silent too.
    b0, *_ = images(2)
    write_series(home / "bad", b0[:1], number=9, study="1.2.999", b=1000, **planted)
    damaged = (home / "later" / "s1" / "001.dcm").read_bytes()[:180]
    (home / "Zwetschgenbaum.dcm").write_bytes(damaged)
    uids = {"a": "1.2.826.7764", **{str(n): f.instance for n, f in enumerate(tree_of(home))}}
    out = tmp_path / "out"
    # The folder that the user names may be repeated, what lies in it may not.
    source = tmp_path / "named"
    (tmp_path / "Zwetschgenbaum_Adalbert").rename(source)
    assert main(["dicom", str(source), str(out), "--layout", layout, "--json"]) == 2
    printed = capsys.readouterr()
    assert len(json.loads(printed.out)["studies"]) == 2 and "1 of 3 studies" in printed.err
    secrets = secrets_of(planted | uids)
    assert_silent([*contents(out), printed.out.encode(), printed.err.encode()], secrets)
    for files in find_studies(out):
        for path in files.images.values():
            header = nibabel.load(path).header
            for field in ("descrip", "aux_file", "db_name", "intent_name"):
                assert header[field].item() == b""
            assert not header.extensions
            assert "SoftwareVersions" not in sidecar(path) and sidecar(path)["Manufacturer"]


def tree_of(folder):
    return find_dicom(folder).files


def test_no_word_of_a_real_study_reaches_an_output(dicom, tmp_path, capfd):
    source = copy(dicom / "siemens_xa30", tmp_path / "source")
    copy(dicom / "canon_enhanced", source / "canon")
    known = {}
    for number, path in enumerate(source.rglob("*.dcm")):
        header = edit(path, **PLANTED)
        known[f"study{number}"] = header.StudyInstanceUID
        known[f"series{number}"] = header.SeriesInstanceUID
    convert_dicom(source, tmp_path / "out")
    captured = capfd.readouterr()
    secrets = secrets_of(PLANTED | known)
    assert_silent([*contents(tmp_path / "out"), *map(str.encode, captured)], secrets)


# Which images


@pytest.mark.parametrize(
    ("plant", "expected"),
    [
        (lambda ds: setattr(ds, "DiffusionBValue", 1000.0), 1000),
        (lambda ds: private(ds, 0x0019, "SIEMENS MR HEADER", 0x0C, "IS", "1000"), 1000),
        (lambda ds: private(ds, 0x0019, "SIEMENS MR HEADER", 0x0C, "UN", b"1000"), 1000),
        (lambda ds: private(ds, 0x0043, "GEMS_PARM_01", 0x39, "IS", ["1000001000", "8"]), 1000),
        (lambda ds: private(ds, 0x0043, "GEMS_PARM_01", 0x39, "UN", b"800\\8\\0\\0 "), 800),
        (lambda ds: private(ds, 0x2001, "Philips Imaging DD 001", 3, "FL", 1000.0), 1000),
        (lambda ds: private(ds, 0x2001, "Philips Imaging DD 001", 3, "UN", b"\0\0zD"), 1000),
        (lambda ds: private(ds, 0x0065, "Image Private Header", 9, "FD", 700.0), 700),
        (lambda ds: setattr(ds, "ImageComments", "b=1000(0.1,0.2,0.3)"), 1000),
        (lambda ds: setattr(ds, "SequenceName", "*ep_b1000t"), 1000),
        (lambda ds: setattr(ds, "SequenceName", "*ep_b0"), 0),
        (lambda ds: setattr(ds, "SequenceName", "tfl3d1_16ns"), None),
        (lambda ds: setattr(ds, "DiffusionBValue", -1.0), None),
        (lambda ds: None, None),
    ],
)
def test_b_values_are_found_where_each_vendor_writes_them(plant, expected, tmp_path):
    (path, *_) = write_series(tmp_path, images()[0][:1], plant=plant)
    assert find_b_value(pydicom.dcmread(path)) == expected


@pytest.mark.parametrize(
    ("types", "words", "b_values", "kind"),
    [
        ("DERIVED PRIMARY DIFFUSION ADC ND NORM", "ep2d_diff_ADC", [], "adc"),
        ("DERIVED PRIMARY DIFFUSION TRACEW", "ep2d_diff_TRACEW", [1000], "weighted"),
        ("DERIVED PRIMARY DIFFUSION TENSOR_B0", "DWI_TENSOR_B0", [0], "weighted"),
        ("DERIVED PRIMARY DIFFUSION TENSOR", "DWI_TENSOR", [], "other"),
        ("DERIVED PRIMARY DIFFUSION FA", "DWI_FA", [], "other"),
        ("DERIVED PRIMARY EADC", "eADC", [], "other"),
        ("DERIVED SECONDARY", "Apparent Diffusion Coefficient (mm2/s)", [1000], "adc"),
        ("DERIVED SECONDARY", "Exponential Apparent Diffusion Coefficient", [], "other"),
        ("DERIVED SECONDARY", "eADC (1000)", [], "other"),
        ("DERIVED PRIMARY M_SE ADC UNSPECIFIED", "DWI_SSh", [], "adc"),
        ("ORIGINAL PRIMARY M_SE M SE", "DWI + ADC", [0, 1000], "weighted"),
        ("DERIVED PRIMARY", "dReg - DWI dADC", [], "adc"),
        ("ORIGINAL PRIMARY OTHER", "Ax DWI b1000", [0, 1000], "weighted"),
        ("ORIGINAL PRIMARY GDC", "DTI_PA-ortho", [0, 1500], "weighted"),
        ("ORIGINAL PRIMARY M_FFE M FFE", "T1 3D", [0], "other"),
        ("ORIGINAL PRIMARY M ND", "t2_tirm_tra_dark-fluid", [], "other"),
        ("ORIGINAL PRIMARY P ND", "ep2d_diff", [0, 1000], "other"),
    ],
)
def test_kinds_are_recognised(types, words, b_values, kind):
    assert find_kind(types.split(), words, b_values) == kind


#: What a vendor writes: of a weighted image, of its map, and its factor from stored to written DWI.
VENDORS = {
    "GE": (
        say_as_ge,
        {
            "ImageType": ["DERIVED", "SECONDARY", "COMBINED"],
            "SeriesDescription": "Apparent Diffusion Coefficient (mm2/s)",
            "plant": lambda ds: private(ds, 0x0043, "GEMS_PARM_01", 0x39, "IS", ["1000", "8"]),
        },
        1,
    ),
    "Philips": (
        say_as_philips,
        {
            "ImageType": ["ORIGINAL", "PRIMARY", "ADC", "ADC", "SE"],
            "Manufacturer": "Philips",
            "plant": lambda ds: scale_as_philips(ds, 0.5, 11.0),
        },
        4,
    ),
    "UIH": (say_as_uih, {"ImageType": ["DERIVED", "PRIMARY", "DIFFUSION", "ADC"]}, 1),
}


@pytest.mark.parametrize("vendor", VENDORS)
def test_private_elements_alone_say_what_is_what(tmp_path, vendor):
    """b = 0 and trace in one series; the map with its unit in what the console shows."""
    say, of_map, factor = VENDORS[vendor]
    b0, at, adc = images()
    series = pydicom.uid.generate_uid()
    for number, b in enumerate((0, 1000)):

        def plant(ds, b=b, number=number):
            say(ds, b)
            ds.InstanceNumber += number * len(b0)

        home = tmp_path / "in" / str(b)
        write_series(home, at(b), number=4, SeriesInstanceUID=series, plant=plant)
    derived = convert_dicom(tmp_path / "in", tmp_path / "derived").studies[0]
    assert derived.remarks == () and derived.images["dwi"]["DiffusionDirections"] == "trace"
    assert derived.images["adc"]["DerivedFromBValues"] == [0, 1000]
    stored = 2 if vendor == "Philips" else 1
    write_series(tmp_path / "in" / "adc", adc * stored, number=5, **of_map)
    vendors = convert_dicom(tmp_path / "in", tmp_path / "vendors").studies[0]
    assert vendors.images["adc"]["ADC"] == "vendor"
    for out, tolerance in (("derived", 3), ("vendors", 0)):
        written = {m: np.sort(voxels(p), None) for m, p in only(tmp_path / out).images.items()}
        np.testing.assert_allclose(written["adc"], np.sort(adc, None), atol=tolerance)
        np.testing.assert_allclose(written["dwi"], factor * np.sort(at(1000), None), rtol=1e-6)


def test_an_image_that_ge_calls_t2_is_b_0_whatever_its_b_value(tmp_path):
    """So some of its multi-shell series are: b = 1000 without a direction, of an image at b = 0."""

    def plant(ds):
        say_as_ge(ds, 1000)
        private(ds, 0x0043, "GEMS_PARM_01", 0x30, "SS", 14)

    (path, *_) = write_series(tmp_path, images()[0][:1], plant=plant)
    assert find_b_value(pydicom.dcmread(path)) == 0


@pytest.mark.parametrize("by_slice", [False, True])
@pytest.mark.parametrize("vendor", ["Philips", "SIEMENS", "GE MEDICAL SYSTEMS", "UIH", "Canon"])
def test_frames_of_an_enhanced_file_are_what_they_say_whoever_made_it(tmp_path, vendor, by_slice):
    b0, at, adc = images()
    trace = (at(1000), 1000, "ISOTROPIC")
    three = [(np.rint(at(1000) * factor), 1000, "DIRECTIONAL") for factor in (0.5, 1, 2)]
    types = {"ImageType": ["ORIGINAL", "PRIMARY", "DIFFUSION", "NONE"], "Manufacturer": vendor}
    # The b-value of the image at b = 0 may be missing, where its kind says it.
    for name, volumes, b in (
        ("trace", [trace], 0),
        ("three", three, None),
        ("all", [*three, trace], 0),
    ):
        (tmp_path / name).mkdir()
        write_enhanced(
            tmp_path / name / "in.dcm", [(b0, b, "NONE"), *volumes], by_slice=by_slice, **types
        )
        (study,) = convert_dicom(tmp_path / name, tmp_path / f"{name}.out").studies
        assert study.remarks == () and study.images["adc"]["DerivedFromBValues"] == [0, 1000]
        found = study.images["dwi"]["DiffusionDirections"]
        assert found == (3 if name == "three" else "trace")
        written = {m: voxels(p) for m, p in only(tmp_path / f"{name}.out").images.items()}
        for modality, expected in (("dwi", at(1000)), ("adc", adc)):
            expected = np.flip(expected.T, 1)  # As dcm2niix turns axial slices.
            np.testing.assert_allclose(written[modality], expected, atol=3)


def test_frames_of_a_compressed_enhanced_file_are_told_apart_too(tmp_path):
    b0, at, _ = images()
    types = {"ImageType": ["ORIGINAL", "PRIMARY", "DIFFUSION", "NONE"]}
    write_enhanced(tmp_path / "in.dcm", [(b0, 0, "NONE"), (at(1000), 1000, "ISOTROPIC")], **types)
    convert_dicom(tmp_path / "in.dcm", tmp_path / "plain")
    ds = pydicom.dcmread(tmp_path / "in.dcm")
    ds.compress(pydicom.uid.RLELossless, generate_instance_uid=False)
    ds.save_as(tmp_path / "in.dcm")
    convert_dicom(tmp_path / "in.dcm", tmp_path / "out")
    for modality in ("adc", "dwi"):
        plain, packed = (only(tmp_path / o).images[modality] for o in ("plain", "out"))
        np.testing.assert_array_equal(voxels(plain), voxels(packed))


def test_an_enhanced_file_that_lacks_a_frame_makes_no_volume(tmp_path):
    b0, at, _ = images()
    types = {"ImageType": ["ORIGINAL", "PRIMARY", "DIFFUSION", "NONE"]}
    volumes = [
        (b0, 0, "NONE"),
        (at(1000), 1000, "DIRECTIONAL"),
        (at(1000)[:-1], 1000, "DIRECTIONAL"),
    ]
    write_enhanced(tmp_path / "in.dcm", volumes, **types)
    with pytest.raises(InputError, match="slices are missing"):
        convert_dicom(tmp_path / "in.dcm", tmp_path / "out")


def test_the_b_value_nearest_1000_is_taken_and_a_trace_before_directions(tmp_path):
    b0, at, _ = images()
    for number, b in enumerate((0, 500, 1000, 3000), 1):
        write_series(tmp_path / "in" / str(b), at(b), number=number, b=b)
    types = ["ORIGINAL", "PRIMARY", "DIFFUSION", "NONE"]
    write_series(tmp_path / "in" / "d", at(1000), number=9, b=1000, ImageType=types)
    report = convert_dicom(tmp_path / "in", tmp_path / "out")
    (study,) = report.studies
    assert study.remarks == ()
    assert study.images["dwi"]["SeriesNumbers"] == [3]
    assert study.images["adc"]["SeriesNumbers"] == [1, 3]
    np.testing.assert_array_equal(
        np.sort(voxels(only(tmp_path / "out").images["dwi"]), None), np.sort(at(1000), None)
    )


@pytest.mark.parametrize("missing", [False, True])
def test_directions_are_averaged_geometrically_before_adc(tmp_path, missing):
    """Also where the b = 0 images do not say their b-value."""
    b0, at, adc = images()
    series = pydicom.uid.generate_uid()
    types = ["ORIGINAL", "PRIMARY", "DIFFUSION", "NONE"]
    shared = {"SeriesInstanceUID": series, "ImageType": types}
    write_series(tmp_path / "in" / "0", b0, b=None if missing else 0, **shared)
    factors = (0.5, 1.0, 2.0)
    for number, factor in enumerate(factors, 1):
        volume = np.rint(at(1000) * factor)
        write_series(
            tmp_path / "in" / str(number),
            volume,
            b=990 + 5 * number,
            **shared,
            AcquisitionNumber=number + 1,
        )
    (study,) = convert_dicom(tmp_path / "in", tmp_path / "out").studies
    assert study.images["dwi"]["DiffusionBValue"] == 1000
    assert study.images["dwi"]["DiffusionDirections"] == 3
    assert study.images["adc"]["DerivedFromBValues"] == [0, 1000]
    derived = voxels(only(tmp_path / "out").images["adc"])
    inside = np.sort(adc, None)[-np.count_nonzero(adc) :]
    np.testing.assert_allclose(np.sort(derived, None)[-inside.size :], inside, atol=3)


@pytest.mark.parametrize(("factor", "unit"), [(1, "1e-6"), (1e-3, "1e-3"), (1e-6, "mm2/s")])
def test_vendor_adc_comes_in_1e6_mm2_s_whatever_its_unit(tmp_path, factor, unit):
    b0, at, adc = images()
    write_series(tmp_path / "in" / "w", at(1000), number=1, b=1000)
    write_series(
        tmp_path / "in" / "a",
        adc,
        number=2,
        ImageType=["DERIVED", "PRIMARY", "ADC"],
        RescaleSlope=factor,
        RescaleIntercept=0,
    )
    (study,) = convert_dicom(tmp_path / "in", tmp_path / "out").studies
    assert study.images["adc"]["ADC"] == "vendor"
    written, _ = read_volume(only(tmp_path / "out").images["adc"])
    np.testing.assert_allclose(np.sort(written, None), np.sort(adc, None), rtol=1e-4)


def test_adc_is_not_derived_across_echo_times(tmp_path):
    b0, at, _ = images()
    write_series(tmp_path / "in" / "0", b0, number=1, b=0, EchoTime=120)
    write_series(tmp_path / "in" / "1", at(1000), number=2, b=1000)
    (study,) = convert_dicom(tmp_path / "in", tmp_path / "out").studies
    assert set(study.images) == {"dwi"} and "no ADC" in " ".join(study.remarks)
    assert set(only(tmp_path / "out").images) == {"dwi"}


def test_derived_adc_is_finite_within_limits_and_0_outside_signal():
    b0 = np.array([1000.0, 1000, 1000, 0, 5, 1000, 1000, -3])
    weighted = np.array([1000 * np.exp(-0.7), 1e-30, 2000, 5, 5, 0, -1, -2])
    derived = derive_adc(weighted, b0, 1000)
    assert derived.dtype == np.float32
    np.testing.assert_allclose(derived, [700, HIGHEST_ADC, 0, 0, 0, 0, 0, 0], rtol=1e-6)


# Studies and patients


def test_studies_of_a_patient_share_him_and_keep_their_names(tmp_path):
    for number, (patient, study) in enumerate([("a", "1.1"), ("a", "1.2"), ("b", "1.3")]):
        write_study(
            tmp_path / "in" / str(number),
            seed=number,
            study=study,
            PatientID=patient,
            PatientName=f"{patient}^{number}",  # However a name is spelt.
        )
    report = convert_dicom(tmp_path / "in", tmp_path / "out")
    assert len(report.studies) == 3 and "2 patients" in " ".join(report.remarks)
    table = {s.study: s.patient for s in find_studies(tmp_path / "out" / "studies.csv")}
    assert len(set(table.values())) == 2
    assert set(table) == {s.study for s in find_studies(tmp_path / "out")}
    # Without the third patient, in a folder of another name, the others have the same names.
    shutil.rmtree(tmp_path / "in" / "2")
    (tmp_path / "in").rename(tmp_path / "moved")
    fewer = convert_dicom(tmp_path / "moved", tmp_path / "fewer")
    assert {(s.study, s.patient) for s in fewer.studies} <= set(table.items())
    convert_dicom(tmp_path / "moved", tmp_path / "bids", layout="bids")
    assert len(list((tmp_path / "bids").glob("sub-*/ses-*/dwi/*.nii.gz"))) == 4
    found = find_studies(tmp_path / "bids")
    assert len(found) == 2 and len({s.patient for s in found}) == 1


@pytest.mark.parametrize("modality", ["adc", "dwi"])
@pytest.mark.parametrize("layout", ["foscal", "bids"])
def test_one_modality_in_sessions_is_found_as_what_it_is(tmp_path, layout, modality):
    b0, at, adc = images()
    elements = {
        "adc": {"ImageType": ["DERIVED", "PRIMARY", "DIFFUSION", "ADC"]},
        "dwi": {"b": 1000},
    }
    for number, volume in enumerate((adc, adc[::-1]) if modality == "adc" else (at(900), at(1000))):
        write_series(
            tmp_path / "in" / str(number), volume, study=f"1.{number}", **elements[modality]
        )
    convert_dicom(tmp_path / "in", tmp_path / "out", layout=layout)
    assert [set(s.images) for s in find_studies(tmp_path / "out")] == [{modality}] * 2


def test_the_same_study_id_of_two_patients_is_two_studies(tmp_path):
    for patient in ("a", "b"):
        write_study(tmp_path / "in" / patient, PatientID=patient, PatientName=patient)
    report = convert_dicom(tmp_path / "in", tmp_path / "out")
    names = sorted(s.study for s in report.studies)
    assert names[1] == f"{names[0]}-2" and len({s.patient for s in report.studies}) == 2


def test_copies_of_files_count_once(tmp_path):
    write_study(tmp_path / "in")
    steps = []
    one = convert_dicom(tmp_path / "in", tmp_path / "one", on_step=lambda *step: steps.append(step))
    assert steps == sorted(steps) and steps[0] == (1, 36) and steps[-1] == (36, 36)
    shutil.copytree(tmp_path / "in" / "s2", tmp_path / "in" / "again")
    for path in sorted((tmp_path / "in" / "s2").iterdir()):  # The first copies by path are cut.
        (tmp_path / "in" / "a-cut" / path.name).parent.mkdir(exist_ok=True)
        (tmp_path / "in" / "a-cut" / path.name).write_bytes(path.read_bytes()[:-40])
    two = convert_dicom(tmp_path / "in", tmp_path / "two")
    assert two.studies == one.studies


# Faults


def test_a_study_without_images_is_named_and_the_others_convert(tmp_path, capsys):
    write_study(tmp_path / "in" / "good")
    types = ["ORIGINAL", "PRIMARY", "M"]
    write_series(
        tmp_path / "in" / "t1",
        images()[0],
        number=7,
        study="1.9",
        ImageType=types,
        SeriesDescription="t1_mprage",
        ProtocolName="t1_mprage",
    )
    assert main(["dicom", str(tmp_path / "in"), str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "1 of 2 studies" in error and "series 7" in error and "6 files" in error
    assert len(find_studies(tmp_path / "out")) == 1


@pytest.mark.parametrize(
    "damage", ["truncated", "missing slice", "missing last slice", "one slice"]
)
def test_a_damaged_series_makes_no_volume(tmp_path, damage):
    write_study(tmp_path / "in", with_adc=False)
    whole = convert_dicom(tmp_path / "in", tmp_path / "whole")
    assert whole.studies[0].remarks == ()
    paths = sorted((tmp_path / "in" / "s2").iterdir())
    if damage == "truncated":
        paths[3].write_bytes(paths[3].read_bytes()[:-20])
    else:
        gone = {"missing slice": paths[2:3], "missing last slice": paths[-1:]}
        for path in gone.get(damage, paths[1:]):
            path.unlink()
    if damage == "missing last slice":
        # Nothing but the image at b = 0 says how many there should be.
        report = convert_dicom(tmp_path / "in", tmp_path / "out")
        assert set(report.studies[0].images) == {"dwi"}
        assert "series 2 has 5 slices where series 1 has 6" in report.studies[0].remarks[0]
        return
    reason = {"truncated": "1 of 6 files are truncated", "one slice": "a single slice"}
    reason = reason.get(damage, "slices are missing")
    with pytest.raises(InputError, match=f"series 2 is left out: .*{reason}") as error:
        convert_dicom(tmp_path / "in", tmp_path / "out")
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


@pytest.mark.parametrize("cut", [0, 1, 300])
def test_compressed_files_are_read_and_their_end_is_missed(tmp_path, cut):
    """Run-length coding, which pydicom writes without another library."""
    write_study(tmp_path / "in", with_adc=False)
    convert_dicom(tmp_path / "in", tmp_path / "plain")
    for path in (tmp_path / "in" / "s2").iterdir():
        ds = pydicom.dcmread(path)
        ds.compress(pydicom.uid.RLELossless, generate_instance_uid=False)
        ds.save_as(path)
    path.write_bytes(path.read_bytes()[: -12 - cut] if cut else path.read_bytes())
    if cut:
        with pytest.raises(InputError, match="1 of 6 files are truncated"):
            convert_dicom(tmp_path / "in", tmp_path / "out")
        return
    convert_dicom(tmp_path / "in", tmp_path / "out")
    for modality in ("adc", "dwi"):
        plain, packed = (only(tmp_path / o).images[modality] for o in ("plain", "out"))
        np.testing.assert_array_equal(voxels(plain), voxels(packed))


def test_old_files_without_a_preamble_are_dicom_too(tmp_path):
    write_study(tmp_path / "in")
    for path in (tmp_path / "in").rglob("*.dcm"):
        ds = pydicom.dcmread(path)
        del ds.file_meta
        ds.preamble = None
        ds.save_as(path, implicit_vr=True, little_endian=True, enforce_file_format=False)
        assert path.read_bytes()[128:132] != b"DICM"
    tree = find_dicom(tmp_path / "in")
    assert (len(tree.files), tree.damaged, tree.foreign) == (18, (), 0)
    assert not any(file.truncated for file in tree.files)
    (study,) = convert_dicom(tmp_path / "in", tmp_path / "out").studies
    assert set(study.images) == {"adc", "dwi"} and study.remarks == ()


@pytest.mark.parametrize("share", [0.999, 0.5, 0.01])
def test_a_truncated_enhanced_file_makes_no_study(dicom, tmp_path, share):
    whole = (dicom / "siemens_xa30" / "12" / "image.dcm").read_bytes()
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "image").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(InputError, match="truncated|damaged"):
        convert_dicom(tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.filterwarnings("error::UserWarning")
def test_garbage_never_ends_in_a_traceback(tmp_path, capfd):
    """Every file of a study cut, flipped or filled at random: converted, or one sentence."""
    write_study(tmp_path / "whole")
    rng = np.random.default_rng(0)
    for trial in range(12):
        source = copy(tmp_path / "whole", tmp_path / str(trial))
        for path in rng.choice(sorted(source.rglob("*.dcm")), 3, replace=False):
            data = bytearray(path.read_bytes())
            for place in rng.integers(0, 1200, 20):
                data[place] = rng.integers(256)
            path.write_bytes(data[: rng.integers(100, len(data))] if trial % 2 else data)
        try:
            report = convert_dicom(source, tmp_path / f"out{trial}")
            assert report.studies and not list((tmp_path / f"out{trial}").glob(".*"))
        except InputError as error:
            assert "\n" not in str(error) and not (tmp_path / f"out{trial}").exists()
    assert capfd.readouterr() == ("", "")


def test_header_damage_is_told_by_position(tmp_path):
    write_study(tmp_path / "in")
    path = tmp_path / "in" / "s1" / "000.dcm"
    path.write_bytes((tmp_path / "in" / "s1" / "001.dcm").read_bytes()[:180])
    report = convert_dicom(tmp_path / "in", tmp_path / "out")
    assert report.damaged == 1 and "1 of 19 files" in " ".join(report.remarks)


def test_nothing_found_says_what_was_looked_for_and_found(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "letter.pdf").write_bytes(b"%PDF")
    write_series(tmp_path / "in", images()[0], Modality="CT")
    with pytest.raises(InputError, match="6 other DICOM files, 0 damaged ones and 1 files that"):
        convert_dicom(tmp_path / "in", tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["in"]


def test_without_dcm2niix_the_error_says_how_to_install_it(tmp_path):
    write_study(tmp_path / "in")
    program = (
        "import sys; sys.modules['dcm2niix'] = None; from strokeseg_tf.cli import main; "
        "sys.exit(main(sys.argv[1:]))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, "dicom", str(tmp_path / "in"), str(tmp_path / "out")],
        capture_output=True,
        text=True,
        env=os.environ | {"PATH": str(tmp_path)},
    )
    assert result.returncode == 2
    assert re.fullmatch("strokeseg-tf: error: .*pip install dcm2niix\n", result.stderr)


@pytest.mark.parametrize(
    ("script", "message"),
    [("exit 3", "status 3"), ("exec sleep 60", "did not end within 1 s"), ("exit 0", "no volume")],
)
def test_a_failing_program_fails_the_series(tmp_path, script, message):
    write_study(tmp_path / "in")
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    (series, *_) = group_series(find_dicom(tmp_path / "in").files)
    (tmp_path / "work").mkdir()
    with pytest.raises(ConversionFailed, match=message):
        convert_series(series, tmp_path / "work", program=str(program), timeout_s=1)


def test_what_dcm2niix_leaves_beside_a_diffusion_series_is_no_adc_map(tmp_path):
    write_study(tmp_path / "in", with_adc=False)
    series = next(s for s in group_series(find_dicom(tmp_path / "in").files) if s.kind != "adc")
    made = tmp_path / "made"
    made.mkdir()
    for name in ("image", "image_ADC"):
        nibabel.save(nibabel.Nifti1Image(images()[0], np.eye(4)), made / f"{name}.nii")
    (made / "image.json").write_text("{}")
    program = tmp_path / "program"
    program.write_text(f'#!/bin/sh\nwhile [ "$1" != -o ]; do shift; done; cp "{made}"/* "$2"\n')
    program.chmod(0o755)
    (tmp_path / "work").mkdir()
    found = convert_series(series, tmp_path / "work", program=str(program), timeout_s=60)
    assert [volumes.kind for volumes in found] == ["weighted"]


def test_nothing_is_replaced_unasked_and_no_source_at_all(tmp_path):
    write_study(tmp_path / "in")
    convert_dicom(tmp_path / "in", tmp_path / "out")
    before = sorted((p, p.stat().st_mtime_ns) for p in (tmp_path / "out").rglob("*"))
    with pytest.raises(InputError, match="--overwrite"):
        convert_dicom(tmp_path / "in", tmp_path / "out")
    assert before == sorted((p, p.stat().st_mtime_ns) for p in (tmp_path / "out").rglob("*"))
    convert_dicom(tmp_path / "in", tmp_path / "out", overwrite=True)
    shutil.move(tmp_path / "in", tmp_path / "out" / "in")
    with pytest.raises(InputError, match="lies in"):
        convert_dicom(tmp_path / "out" / "in", tmp_path / "out", overwrite=True)
    with pytest.raises(InputError, match="dicom.json"):
        convert_dicom(tmp_path / "out" / "in", tmp_path, overwrite=True)


@pytest.mark.parametrize("options", [{"layout": "isles22"}, {"timeout_s": 0}])
def test_impossible_options_are_refused(tmp_path, options):
    write_study(tmp_path / "in")
    with pytest.raises(InputError):
        convert_dicom(tmp_path / "in", tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_series_that_holds_everything_is_sorted_out(tmp_path):
    """As Philips writes it: b = 0, three directions, their mean and ADC under one number."""
    b0, at, adc = images()
    shared = {"SeriesInstanceUID": pydicom.uid.generate_uid(), "Manufacturer": "Philips"}

    def volume(index, image, kind, direction="", **elements):
        def plant(ds):
            ds.InstanceNumber += len(image) * index
            ds.TemporalPositionIdentifier = index + 1
            if direction:
                private(ds, 0x2001, "Philips Imaging DD 001", 4, "CS", direction)

        types = ["ORIGINAL", "PRIMARY", kind, "M", "SE"]
        write_series(
            tmp_path / "in" / str(index), image, plant=plant, ImageType=types, **shared, **elements
        )

    volume(0, b0, "M_SE", b=0)
    for index, factor in enumerate((0.5, 1.0, 2.0), 1):
        volume(index, np.rint(at(1000) * factor), "M_SE", "M", b=1000)
    volume(4, at(1000), "M_SE", "I", b=1000)
    whole = convert_dicom(tmp_path / "in", tmp_path / "whole").studies[0]
    assert whole.images["dwi"]["DiffusionDirections"] == "trace"
    assert whole.images["adc"]["ADC"] == "derived"
    np.testing.assert_array_equal(
        np.sort(voxels(only(tmp_path / "whole").images["dwi"]), None), np.sort(at(1000), None)
    )
    # Without the mean, the three directions of one b-value are averaged.
    shutil.move(tmp_path / "in" / "4", tmp_path / "4")
    three = convert_dicom(tmp_path / "in", tmp_path / "three").studies[0]
    assert three.images["dwi"]["DiffusionDirections"] == 3 and three.remarks == ()
    one, other = (voxels(only(tmp_path / o).images["adc"]) for o in ("whole", "three"))
    np.testing.assert_allclose(one, other, atol=3)
    # The vendor's map counts before a derived one.
    volume(5, adc, "ADC")
    vendor = convert_dicom(tmp_path / "in", tmp_path / "vendor").studies[0]
    assert vendor.images["adc"]["ADC"] == "vendor"
    assert vendor.images["dwi"]["DiffusionDirections"] == 3
