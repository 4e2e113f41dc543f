"""Lint: each finding from files on disk that have its fault, and none from those that do not."""

import dataclasses
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time

import nibabel as nib
import numpy as np
import pytest

from tfrecord_tools.errors import InputError
from tfrecord_tools.findings import SEVERITIES, Finding
from tfrecord_tools.layouts import find_studies
from tfrecord_tools.lint.cohort import CHECKS, examine, find_duplicates, lint
from tfrecord_tools.phantom.cohort import make_phantom, write_phantom_study
from tfrecord_tools.study import read_study
from tfrecord_tools.study_files import StudyFiles
from tfrecord_tools.table import write_table

#: What every phantom has: its ADC is in 1e-6 mm2/s.
ALWAYS = {("adc-unit", "note")}


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantom")
    study = make_phantom(5, seed=0, group="stroke", matrix=128, slices=(8, 8))
    return write_phantom_study(folder, study)


@pytest.fixture
def files(phantom, tmp_path):
    """A stroke study whose files a test may spoil."""
    home = phantom.images["adc"].parent.parent
    copy = shutil.copytree(home, tmp_path / "s1")

    def move(paths):
        return {key: copy / path.relative_to(home) for key, path in paths.items()}

    return StudyFiles("s1", move(phantom.images), move(phantom.masks))


def rewrite(path, voxels=lambda v: v, affine=lambda a: a, header=lambda h: None, slope=None):
    """Write a file again with other voxels or another header."""
    image = nib.load(path)
    changed = voxels(np.asarray(image.dataobj))
    written = nib.Nifti1Image(changed, affine(image.affine.copy()))
    written.header.set_sform(written.affine, code="scanner")
    written.header.set_qform(written.affine, code="scanner")
    if slope:
        written.header.set_slope_inter(slope, 0)
    header(written.header)
    # The header as it stands, since nibabel would write the affine into it once more.
    written._affine = None
    nib.save(written, path)


def everywhere(files, **changes):
    for path in {*files.images.values(), *files.masks.values()}:
        rewrite(path, **changes)
    return files


def image(modality, **changes):
    """A change of one image, as a function of the study's files."""

    def change(files):
        rewrite(files.images[modality], **changes)
        return files

    return change


def mask(**changes):
    """A change of R1's mask on DWI."""

    def change(files):
        rewrite(files.masks["r1", "dwi"], **changes)
        return files

    return change


def all_files(**changes):
    return lambda files: everywhere(files, **changes)


def scaled(*factors):
    """Voxels that are so many times as large."""
    return lambda affine: affine @ np.diag([*factors, 1])


def flipped(voxels):
    return voxels[::-1]


def flipped_affine(affine, width=128):
    """That of `flipped` voxels that stay where they were."""
    affine[:3, 3] += (width - 1) * affine[:3, 0]
    affine[:3, 0] *= -1
    return affine


def clipped(share):
    """Cut off so that this share of the brain is at the largest value."""

    def change(voxels):
        brain = voxels[voxels > voxels.mean()]
        return np.minimum(voxels, np.quantile(brain, 1 - share).astype(voxels.dtype))

    return change


def sidecar(suffix, text):
    def change(files):
        files.images["dwi"].with_name("DWI" + suffix).write_text(text)
        return files

    return change


def series(bvalues):
    """The DWI followed by an image twice as bright, with b-values beside them."""

    def change(files):
        rewrite(files.images["dwi"], lambda v: np.stack([v, 2 * v], -1))
        return sidecar(".bval", bvalues)(files)

    return change


def with_nan(voxels):
    voxels = voxels.astype(np.float32)
    voxels[3, 4, 2] = np.nan
    return voxels


def with_hot_voxel(times):
    def change(voxels):
        voxels = voxels.astype(np.float32)
        voxels[20, 20, 4] = times * np.percentile(voxels[voxels > voxels.mean()], 99)
        return voxels

    return change


def some_below_zero(count):
    def change(voxels):
        voxels[:].ravel(order="K")[:count] = -5
        return voxels

    return change


def dark_below_zero(voxels):
    return np.where(voxels < np.quantile(voxels, 0.3), -5, voxels).astype(np.int16)


def no_codes(header):
    header["qform_code"] = header["sform_code"] = 0


def other_qform(shift_mm):
    def change(header):
        affine = header.get_sform()
        affine[0, 3] += shift_mm
        header.set_qform(affine, code="scanner")

    return change


def truncated(files):
    path = files.images["dwi"]
    path.write_bytes(path.read_bytes()[:-100])
    return files


def removed(files):
    files.images["dwi"].unlink()
    return files


def adc_as_dwi(files):
    shutil.copy(files.images["adc"], files.images["dwi"])
    return files


def weighted(b_value):
    """DWI measured at another b-value: S_b = S_1000 exp(-(b - 1000) ADC)."""

    def change(files):
        adc = np.asarray(nib.load(files.images["adc"]).dataobj) * 1e-6
        attenuation = np.exp(-(b_value - 1000) * adc)
        rewrite(files.images["dwi"], lambda v: (v * attenuation).astype(np.float32))
        return files

    return change


def brain_as_mask(files):
    dwi = np.asarray(nib.load(files.images["dwi"]).dataobj)
    rewrite(files.masks["r1", "dwi"], lambda mask: (dwi > dwi.mean()).astype(np.uint8))
    return files


def empty(*keys):
    def change(files):
        for key in keys or files.masks:
            rewrite(files.masks[key], np.zeros_like)
        return files

    return change


def group(name, change=lambda files: files):
    return lambda files: dataclasses.replace(change(files), group=name)


def float_mask(one, other=0.0):
    return mask(voxels=lambda v: np.where(v > 0, one, other).astype(np.float32))


def mixed_mask(*values):
    """A mask whose lesion holds these values in turn."""

    def change(voxels):
        result = np.zeros(voxels.shape, np.float32)
        count = np.count_nonzero(voxels)
        result[voxels > 0] = np.resize(values, count)
        return result

    return mask(voxels=change)


def untouched(files):
    return files


@dataclasses.dataclass(frozen=True)
class Case:
    """A fault, what is found, in which file, and the twin that is as close but good."""

    code: str
    severity: str
    file: str
    spoil: object
    twin: object = untouched


CASES = [
    Case("missing-file", "error", "DWI.nii.gz", removed),
    Case("unreadable", "error", "DWI.nii.gz", truncated),
    Case(
        *("four-dimensional", "error", "DWI.nii.gz"),
        image("dwi", voxels=lambda v: np.stack([v, v], -1)),
        image("dwi", voxels=lambda v: v[..., None]),
    ),
    Case("four-dimensional", "note", "DWI.nii.gz", series("900 0")),
    Case("four-dimensional", "error", "DWI.nii.gz", series("0 0")),
    Case("four-dimensional", "error", "DWI.nii.gz", series("0 nonsense")),
    Case(
        *("not-finite", "error", "DWI.nii.gz"),
        image("dwi", voxels=with_nan),
        image("dwi", voxels=lambda v: v.astype(np.float64)),
    ),
    Case("not-finite", "error", "dwi.nii.gz", mask(voxels=with_nan)),
    Case("constant", "error", "DWI.nii.gz", image("dwi", voxels=np.ones_like)),
    Case(
        *("no-overlap", "error", "ADC.nii.gz"),
        image("adc", affine=lambda a: a + shift(900)),
    ),
    Case(
        *("mask-grid", "error", "dwi.nii.gz"),
        mask(affine=lambda a: a + shift(5)),
        mask(affine=lambda a: a + shift(1e-7)),
    ),
    Case(
        *("adc-unit", "error", "ADC.nii.gz"),
        image("adc", voxels=lambda v: (v * 0.04).astype(np.float32)),
        image("adc", voxels=lambda v: (v * 1e-6).astype(np.float64)),
    ),
    Case(
        *("adc-unit", "warning", "ADC.nii.gz"),
        image("adc", voxels=lambda v: (v * 0.5).astype(np.float32)),
        image("adc", voxels=lambda v: (v * 0.8).astype(np.float32)),
    ),
    Case("missing-modality", "note", "DWI.nii.gz", lambda files: only(files, "dwi")),
    Case("missing-modality", "note", "ADC.nii.gz", lambda files: only(files, "adc")),
    Case("same-image", "error", "ADC.nii.gz", adc_as_dwi),
    Case(
        *("b-value", "warning", "DWI.nii.gz"),
        sidecar(".json", '{"DiffusionBValue": 1500.0}'),
        sidecar(".json", '{"DiffusionBValue": 800}'),
    ),
    Case(
        *("b-value", "warning", "DWI.nii.gz"),
        sidecar(".bval", "0\n"),
        sidecar(".bval", "1000\n"),
    ),
    Case(
        *("b-value", "warning", "DWI.nii.gz"),
        sidecar(".json", "{broken"),
        sidecar(".json", '{"EchoTime": 55}'),
    ),
    Case(
        *("grid", "warning", "ADC.nii.gz"),
        image("adc", voxels=lambda v: v[::2, ::2], affine=scaled(2, 2, 1)),
        image("adc", voxels=flipped, affine=flipped_affine),
    ),
    Case(
        *("two-placements", "warning", "DWI.nii.gz"),
        image("dwi", header=other_qform(3)),
        image("dwi", header=other_qform(0.001)),
    ),
    Case(
        *("no-orientation", "warning", "DWI.nii.gz"),
        all_files(header=no_codes),
        all_files(header=lambda h: h.set_qform(None, code=0)),
    ),
    Case("contrast", "warning", "DWI.nii.gz", weighted(0), weighted(1200)),
    Case(
        *("mirrored", "warning", "ADC.nii.gz"),
        image("adc", voxels=flipped),
        image("adc", voxels=flipped, affine=flipped_affine),
    ),
    Case("mirrored", "warning", "ADC.nii.gz", image("adc", voxels=lambda v: v[:, ::-1])),
    Case("mirrored", "warning", "ADC.nii.gz", image("adc", voxels=lambda v: v[:, :, ::-1])),
    Case(
        *("spacing", "warning", "DWI.nii.gz"),
        all_files(affine=scaled(1, 1, 2.3)),
        all_files(affine=scaled(1, 1, 1.5)),
    ),
    Case(
        *("field-of-view", "warning", "DWI.nii.gz"),
        all_files(affine=scaled(2, 2, 1)),
        all_files(affine=scaled(1.6, 1.6, 1)),
    ),
    Case(
        *("anisotropy", "warning", "DWI.nii.gz"),
        all_files(affine=scaled(0.6, 0.6, 2)),
        all_files(affine=scaled(0.6, 0.6, 1)),
    ),
    Case(
        *("pixels", "warning", "DWI.nii.gz"),
        all_files(affine=scaled(1.1, 1, 1)),
        all_files(affine=scaled(1.03, 1, 1)),
    ),
    Case(
        *("stretched", "note", "DWI.nii.gz"),
        all_files(voxels=lambda v: v[18:-18]),
        all_files(voxels=lambda v: v[4:-4]),
    ),
    Case(
        *("outliers", "warning", "DWI.nii.gz"),
        image("dwi", voxels=with_hot_voxel(20)),
        image("dwi", voxels=with_hot_voxel(8)),
    ),
    Case("outliers", "warning", "ADC.nii.gz", image("adc", voxels=with_hot_voxel(20))),
    Case(
        *("single-slice", "warning", "DWI.nii.gz"),
        all_files(voxels=lambda v: v[:, :, 4:5]),
        all_files(voxels=lambda v: v[:, :, 3:6]),
    ),
    Case(
        *("saturated", "warning", "DWI.nii.gz"),
        image("dwi", voxels=clipped(0.03)),
        image("dwi", voxels=clipped(0.001)),
    ),
    Case(
        *("saturated", "warning", "ADC.nii.gz"),
        image("adc", voxels=lambda v: np.minimum(v, 1500)),
        image("adc", voxels=lambda v: np.minimum(v, 2600)),
    ),
    Case(
        *("negative", "note", "DWI.nii.gz"),
        image("dwi", voxels=some_below_zero(50)),
        image("dwi", voxels=lambda v: np.maximum(v, 0)),
    ),
    Case("negative", "warning", "DWI.nii.gz", image("dwi", voxels=dark_below_zero)),
    Case("no-mask", "note", "ADC.nii.gz", StudyFiles.without_masks),
    Case(
        *("mask-values", "note", "dwi.nii.gz"),
        mask(voxels=lambda v: v * np.uint8(255), slope=0.00392156862),
        float_mask(1.0),
    ),
    Case("mask-values", "note", "dwi.nii.gz", mask(voxels=lambda v: v * np.uint8(255))),
    Case("mask-values", "warning", "dwi.nii.gz", mixed_mask(1, 2, 3)),
    Case("mask-values", "warning", "dwi.nii.gz", mixed_mask(0.2, 0.7, 0.9)),
    Case("mask-values", "error", "dwi.nii.gz", mixed_mask(*np.linspace(3, 900, 40))),
    Case("mask-values", "error", "dwi.nii.gz", mixed_mask(-1, 1)),
    Case(
        *("mask-empty", "warning", "dwi.nii.gz"),
        empty(("r1", "dwi")),
        group("control", empty()),
    ),
    Case(
        "mask-empty", "warning", "dwi.nii.gz", group("stroke", empty()), group("control", empty())
    ),
    Case("mask-empty", "note", "dwi.nii.gz", empty()),
    Case("mask-in-control", "warning", "dwi.nii.gz", group("control"), group("stroke")),
    Case("mask-outside", "warning", "dwi.nii.gz", mask(voxels=lambda v: np.roll(v, 70, 1))),
    Case("mask-large", "warning", "dwi.nii.gz", brain_as_mask),
    Case(
        *("mask-mirrored", "warning", "dwi.nii.gz"),
        mask(voxels=flipped),
        mask(voxels=flipped, affine=flipped_affine),
    ),
]


def shift(mm):
    affine = np.zeros((4, 4))
    affine[0, 3] = mm
    return affine


def only(files, modality):
    masks = {key: path for key, path in files.masks.items() if key[1] == modality}
    return dataclasses.replace(files, images={modality: files.images[modality]}, masks=masks)


def found(files, **options):
    """Kinds of findings beyond those of every phantom."""
    return {(f.code, f.severity) for f in examine(files, **options).findings} - ALWAYS


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.code}-{case.severity}")
def test_a_fault_on_disk_is_found_and_nothing_else(case, files):
    spoiled = case.spoil(files)
    examination = examine(spoiled)
    assert {(f.code, f.severity) for f in examination.findings} - ALWAYS == {
        (case.code, case.severity)
    }
    assert (examination.study is None) == (case.severity == "error")
    findings = [f for f in examination.findings if f.code == case.code]
    assert case.file in [f.file.rpartition("/")[2] for f in findings]
    for finding in findings:
        assert finding.study == "s1" and finding.message and finding.remedy
        assert str(finding).startswith(finding.file) and "\n" not in str(finding)


@pytest.mark.parametrize(
    "case",
    [case for case in CASES if case.twin is not untouched],
    ids=lambda case: f"{case.code}-{case.severity}",
)
def test_its_twin_is_not_found(case, files):
    assert found(case.twin(files)) == set()


def test_nothing_is_found_in_what_nobody_has_touched(files):
    assert found(files) == set()


def test_every_check_has_a_case():
    assert CHECKS.keys() <= {case.code for case in CASES}


# ADC's unit


def test_a_map_scaled_to_1_or_standardised_is_not_taken_for_an_adc(files):
    original = files.images["adc"].read_bytes()
    for change in (lambda v: v / v.max() * 0.99, lambda v: (v - v[v > 0].mean()) / v[v > 0].std()):
        files.images["adc"].write_bytes(original)
        rewrite(files.images["adc"], voxels=lambda v, change=change: change(v).astype(np.float32))
        assert ("adc-unit", "error") in found(files)


@pytest.mark.parametrize(("unit", "kind"), [("1e-6", "note"), ("1e-3", "warning")])
def test_a_unit_that_is_told_is_used_and_doubted_where_the_brain_says_another(files, unit, kind):
    examination = examine(files, adc_unit=unit)
    assert [f.severity for f in examination.findings if f.code == "adc-unit"] == [kind]
    assert examination.study.adc_scale == {"1e-6": 1e-3, "1e-3": 1}[unit]


def test_no_unit_that_is_not_known(files):
    with pytest.raises(InputError, match="unknown ADC unit 'furlong'"):
        examine(files, adc_unit="furlong")


def test_noise_around_the_head_does_not_hide_the_unit_of_a_study_without_dwi(files):
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 900, (128, 128, 8)).astype(np.int16)
    rewrite(files.images["adc"], voxels=lambda v: np.where(v == 0, noise, v))
    examination = examine(only(files, "adc"))
    assert examination.study.adc_scale == 1e-3


# Series


@pytest.mark.parametrize(("bvalues", "factor"), [("900 0", 1), ("0 1000", 2)])
def test_of_a_series_in_any_order_the_diffusion_weighted_image_is_used(files, bvalues, factor):
    before = examine(files).study.images["dwi"]
    after = examine(series(bvalues)(files)).study.images["dwi"]
    np.testing.assert_allclose(after, factor * before, rtol=1e-6)


# Every finding at once


def test_a_broken_adc_and_a_broken_mask_are_two_errors(files):
    image("adc", voxels=with_nan)(files)
    mask(affine=lambda a: a + shift(5))(files)
    truncated_mask = files.masks["r2", "dwi"]
    truncated_mask.write_bytes(truncated_mask.read_bytes()[:-30])
    sidecar(".bval", "2000")(files)
    examination = examine(files)
    assert [(f.code, f.severity) for f in examination.findings] == [
        ("not-finite", "error"),
        ("unreadable", "error"),
        ("mask-grid", "error"),
        ("b-value", "warning"),
    ]
    with pytest.raises(InputError) as first:
        read_study(files)
    assert str(first.value) == str(examination.findings[0])


def test_a_file_that_is_the_mask_of_both_modalities_is_told_of_once(files):
    one = files.masks["r1", "dwi"]
    shared = dataclasses.replace(files, masks={("r1", "adc"): one, ("r1", "dwi"): one})
    for change, code in (
        (mask(affine=lambda a: a + shift(5)), "mask-grid"),
        (mask(affine=lambda a: a - shift(5), voxels=lambda v: v * np.uint8(255)), "mask-values"),
        (mask(voxels=lambda v: np.roll(v, 70, 1)), "mask-outside"),
        (lambda files: one.write_bytes(b"no image"), "unreadable"),
    ):
        change(files)
        assert [f.code for f in examine(shared).findings].count(code) == 1


def test_a_mask_of_an_unreadable_image_is_not_blamed(files):
    image("adc", voxels=lambda v: v[::2, ::2], affine=scaled(2, 2, 1))(files)
    rewrite(files.masks["r1", "adc"], lambda v: v[::2, ::2], affine=scaled(2, 2, 1))
    files.images["adc"].write_bytes(b"no image")
    assert found(files) == {("unreadable", "error")}


def test_the_study_and_the_voxels_checksum_come_with_the_findings(files):
    import hashlib

    examination = examine(files)
    study = read_study(files)
    for modality, path in files.images.items():
        np.testing.assert_array_equal(examination.study.images[modality], study.images[modality])
        voxels = nib.load(path).get_fdata(dtype=np.float32).astype("<f4").tobytes(order="F")
        assert examination.content[modality] == hashlib.sha256(voxels).hexdigest()
    assert examination.study.masks.keys() == study.masks.keys()


@pytest.mark.filterwarnings("error")
def test_whatever_bytes_a_file_holds_the_answer_is_findings(cohort, tmp_path, capfd):
    """Mutated headers and bodies: never another exception, nor a word on standard error."""
    study = by_id(cohort, "phantom-001")
    copies = {key: tmp_path / f"{'_'.join(key)}.nii" for key in study.masks}
    copies |= {modality: tmp_path / f"{modality}.nii" for modality in study.images}
    for key, path in copies.items():
        nib.save(nib.load((study.images | study.masks)[key]), path)
    images = {m: copies[m] for m in study.images}
    mutated = StudyFiles("s", images, {key: copies[key] for key in study.masks})
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(60):
        path = rng.choice(list(copies.values()))
        good = path.read_bytes()
        content = bytearray(good)
        for _ in range(rng.integers(1, 6)):
            content[rng.integers(352 if rng.random() < 0.8 else len(good))] = rng.integers(256)
        path.write_bytes(content[: rng.integers(len(good))] if rng.random() < 0.1 else content)
        examination = examine(mutated)
        refused += examination.study is None
        assert (examination.study is None) == (examination.findings[0].severity == "error")
        path.write_bytes(good)
    assert 0 < refused < 60
    assert capfd.readouterr() == ("", "")


# Cohorts


def test_phantoms_are_good_studies(cohort):
    report = lint(cohort)
    assert len(report.studies) == 8 and report.refused == ()
    kinds = {(f.code, f.severity) for f in report.findings}
    assert kinds == ALWAYS | {("mask-empty", "note")}
    assert len({f.study for f in report.findings if f.code == "mask-empty"}) == 1  # The control.
    assert {f.code for f in lint(cohort / "studies.csv").findings} == {"adc-unit"}


def test_the_real_cases_are_good_studies(isles22):
    report = lint(isles22)
    assert report.counts == {"error": 0, "warning": 0, "note": 7}
    units = [f.study for f in report.findings if f.code == "adc-unit"]
    assert units == ["sub-strokecase0002_ses-0001"]
    assert {f.code for f in report.findings} == {"adc-unit", "negative"}


def test_a_mirrored_mask_of_a_real_case_is_found(isles22, tmp_path):
    for study in find_studies(isles22):
        paths = {k: shutil.copy(p, tmp_path / f"{k}.nii.gz") for k, p in study.images.items()}
        drawn = shutil.copy(study.masks["r1", "dwi"], tmp_path / "mask.nii.gz")
        rewrite(drawn, flipped, header=nib.load(drawn).header.__class__.copy)
        copied = StudyFiles(
            "s", {k: tmp_path / f"{k}.nii.gz" for k in paths}, {("r1", "dwi"): drawn}
        )
        assert ("mask-mirrored", "warning") in found(copied)
        rewrite(paths["adc"], flipped)
        assert ("mirrored", "warning") in found(copied)


def test_an_image_under_two_ids_is_refused_once():
    contents = {
        "s1": {"adc": "a", "dwi": "b"},
        "s3": {"adc": "a", "dwi": "b"},
        "s2": {"adc": "c", "dwi": "b"},
        "s4": {"adc": "d"},
    }
    findings = find_duplicates(contents)
    assert [(f.study, f.code, f.severity) for f in findings] == [
        ("s2", "duplicate", "error"),
        ("s3", "duplicate", "error"),
    ]
    assert findings[0].message == "study s2 has the DWI of study s1"
    assert findings[1].message == "study s3 has the ADC and DWI of study s1"


def test_a_compressed_copy_under_another_id_is_found(cohort, tmp_path):
    home = shutil.copytree(cohort, tmp_path / "cohort")
    source = home / "phantom-002" / "DWI" / "DWI.nii.gz"
    target = home / "phantom-005" / "DWI" / "DWI.nii.gz"
    nib.save(nib.load(source), tmp_path / "copy.nii")
    target.unlink()
    nib.save(nib.load(tmp_path / "copy.nii"), target)
    assert "phantom-005" in lint(home).refused


def test_processes_change_nothing_and_progress_is_told(cohort):
    told = []
    alone = lint(cohort, on_study=lambda done, total: told.append((done, total)))
    assert told == [(n, 8) for n in range(1, 9)]
    assert lint(cohort, jobs=2) == alone


@pytest.mark.parametrize("options", [{"jobs": 0}, {"layout": "x"}, {"adc_unit": "x"}])
def test_an_option_that_cannot_be_is_refused(cohort, options):
    with pytest.raises(InputError):
        lint(cohort, **options)


# The command


COMMAND = "import sys; from strokeseg_tf.cli import main; sys.exit(main(['lint', *sys.argv[1:]]))"


def command(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-c", COMMAND, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        **options,
    )


@pytest.fixture
def bad_cohort(cohort, tmp_path):
    """Studies with an error and a warning, with a warning, with a duplicate, and good ones."""
    home = shutil.copytree(cohort, tmp_path / "a cohort in a folder with a rather long name")
    image("adc", voxels=with_nan)(by_id(home, "phantom-003"))
    sidecar(".bval", "2000")(by_id(home, "phantom-003"))
    sidecar(".bval", "2000")(by_id(home, "phantom-001"))
    shutil.copy(home / "phantom-002/DWI/DWI.nii.gz", home / "phantom-002/ADC/ADC.nii.gz")
    return home


def by_id(home, study):
    return next(files for files in find_studies(home) if files.study == study)


def test_a_good_cohort_exits_with_0(cohort):
    result = command(cohort)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines()[-1] == "8 studies: 0 errors, 0 warnings, 12 notes"


def test_an_error_exits_with_2_after_the_whole_report(bad_cohort):
    result = command(bad_cohort)
    assert result.returncode == 2
    assert re.fullmatch(
        r"strokeseg-tf: error: 2 of 8 studies cannot be converted: phantom-002, phantom-003; .+\n",
        result.stderr,
    )
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    order = [line for line in lines if line.startswith("phantom")]
    assert order == ["phantom-002", "phantom-003", "phantom-001"]
    text = " ".join(result.stdout.split())
    assert "error not-finite: phantom-003/ADC/ADC.nii.gz has 1 voxels that are NaN" in text
    assert "-> replace them (with 0 outside the head) and try again" in text
    assert text.index("error not-finite") < text.index("warning b-value")
    assert re.search(r"8 studies: 2 errors, \d+ warnings, \d+ notes$", text)


def test_json_is_one_document_with_a_stable_shape(bad_cohort):
    result = command(bad_cohort, "--json")
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    content = json.loads(result.stdout)
    assert list(content) == ["source", "counts", "studies", "refused", "findings"]
    assert content["refused"] == ["phantom-002", "phantom-003"]
    assert list(content["counts"]) == list(SEVERITIES)
    assert content["studies"] == [f"phantom-{n:03d}" for n in range(1, 9)]
    names = [field.name for field in dataclasses.fields(Finding)]
    assert names == ["study", "code", "severity", "file", "message", "remedy"]
    for finding in content["findings"]:
        assert list(finding) == names and all(isinstance(v, str) for v in finding.values())
        assert finding["severity"] in SEVERITIES
    assert sum(content["counts"].values()) == len(content["findings"])


def test_ctrl_c_ends_at_once_with_130_and_no_worker_stays(cohort, tmp_path):
    """In a terminal, where Ctrl-C reaches the workers too and the bar is drawn."""
    study = by_id(cohort, "phantom-001")
    many = [dataclasses.replace(study, study=f"s{n}", patient=f"s{n}") for n in range(5000)]
    write_table(tmp_path / "many.csv", many)
    arguments = [sys.executable, "-c", COMMAND, str(tmp_path / "many.csv"), "--jobs", "2"]
    process, terminal = pty.fork()
    if process == 0:
        os.execv(sys.executable, arguments)
    shown = b""
    while not re.search(rb"[1-9][0-9]*/5000", shown):
        shown += os.read(terminal, 4096)
    start = time.monotonic()
    os.killpg(process, signal.SIGINT)
    try:
        while part := os.read(terminal, 4096):
            shown += part
    except OSError:  # How a terminal says that nobody is left to write to it.
        pass
    assert time.monotonic() - start < 10
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 130
    assert b"Traceback" not in shown and b"interrupted" in shown
