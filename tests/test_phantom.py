"""Laws of the synthetic cohort: what a radiologist, a scanner and two raters would make of it."""

import csv
import functools
import itertools

import nibabel as nib
import numpy as np
import pytest

from tfrecord_tools.errors import InputError
from tfrecord_tools.phantom.cohort import (
    MASK_KEYS,
    draw_groups,
    make_phantom,
    write_phantom_cohort,
)
from tfrecord_tools.phantom.lesions import draw_lesion_volume_ml

MATRIX = 80
COHORT = {"studies": 4, "controls": 1, "seed": 3, "matrix": 32, "slices": (20, 22)}
PAIRS = {
    "raters on adc": (("r1", "adc"), ("r2", "adc")),
    "raters on dwi": (("r1", "dwi"), ("r2", "dwi")),
    "modalities of r1": (("r1", "adc"), ("r1", "dwi")),
    "modalities of r2": (("r2", "adc"), ("r2", "dwi")),
}


@functools.cache
def phantom(index, group="stroke", seed=0, matrix=MATRIX):
    return make_phantom(index, seed=seed, group=group, matrix=matrix)


@pytest.fixture(scope="module")
def strokes():
    """Twelve stroke studies at a coarse matrix."""
    return [phantom(index) for index in range(1, 13)]


@pytest.fixture(scope="module")
def cohort_82():
    """The paper's numbers of studies at the matrix where the agreement was calibrated."""
    groups = draw_groups(82, 7, seed=0)
    return [phantom(i, group) for i, group in enumerate(groups, start=1)]


@pytest.fixture(scope="module")
def cohort_folder(tmp_path_factory):
    return write_phantom_cohort(tmp_path_factory.mktemp("phantom") / "cohort", **COHORT)


def spacing_mm(study):
    return np.linalg.norm(study.affine[:3, :3], axis=0)


def volume_ml(study, key):
    return study.masks[key].sum() * np.prod(spacing_mm(study)) / 1000


def healthy_brain(study):
    """Tissue away from fluid, bone and lesion, bool [x, y, z]."""
    tissue = (study.adc > 0.4) & (study.adc < 1.3)
    bright = study.dwi > 0.5 * np.median(study.dwi[tissue])
    lesion = np.logical_or.reduce(list(study.masks.values()))
    return tissue & bright & ~lesion


def cohen_kappa(first, second):
    """Voxel-wise over the volume; two empty masks agree."""
    if not first.any() and not second.any():
        return 1.0
    observed = np.mean(first == second)
    a, b = first.mean(), second.mean()
    chance = a * b + (1 - a) * (1 - b)
    return (observed - chance) / (1 - chance)


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def same(first, second):
    return (
        np.array_equal(first.adc, second.adc)
        and np.array_equal(first.dwi, second.dwi)
        and np.array_equal(first.affine, second.affine)
        and all(np.array_equal(first.masks[k], second.masks[k]) for k in MASK_KEYS)
    )


# Determinism


def test_same_seed_and_index_give_the_same_study_in_any_order():
    again = [make_phantom(i, seed=0, group="stroke", matrix=MATRIX) for i in (2, 1)]
    assert same(again[0], phantom(2))
    assert same(again[1], phantom(1))


def test_another_seed_or_index_gives_another_study():
    assert not same(phantom(1), phantom(2))
    assert not same(phantom(1), phantom(1, seed=1))


def test_two_processes_write_the_bytes_of_one(cohort_folder, tmp_path):
    seen = []
    again = write_phantom_cohort(
        tmp_path / "again", **COHORT, jobs=2, on_study=lambda *count: seen.append(count)
    )
    assert contents(again) == contents(cohort_folder)
    assert seen == [(done, 4) for done in (1, 2, 3, 4)]


# Images


def test_arrays_have_the_promised_types(strokes):
    for study in strokes:
        assert study.adc.dtype == study.dwi.dtype == np.float32
        assert study.adc.shape == study.dwi.shape
        assert set(study.masks) == set(MASK_KEYS)
        assert all(m.dtype == bool and m.shape == study.adc.shape for m in study.masks.values())
        assert np.isfinite(study.adc).all() and study.adc.min() == 0 and study.adc.max() <= 4
        assert np.isfinite(study.dwi).all() and study.dwi.min() >= 0


def test_brain_has_the_adc_of_a_brain(strokes):
    for study in strokes:
        assert 0.7 < np.median(study.adc[healthy_brain(study)]) < 1.0


def test_ventricles_are_high_on_adc_and_dark_on_dwi(strokes):
    """Around the centre of the head, a few slices up, lies fluid in every study."""
    for study in strokes:
        x, y, z = (n // 2 for n in study.adc.shape)
        centre = (slice(x - 12, x + 12), slice(y - 25, y + 15), slice(z - 1, z + 4))
        fluid = study.adc[centre] > 2.4
        assert fluid.sum() * np.prod(spacing_mm(study)) > 2000
        tissue = np.median(study.dwi[healthy_brain(study)])
        assert np.median(study.dwi[centre][fluid]) < 0.6 * tissue


def test_lesions_are_bright_on_dwi_and_low_on_adc(strokes):
    """On DWI in every study; on ADC in nearly all, since small cortical ones drown in fluid."""
    low = []
    for study in strokes:
        brain = healthy_brain(study)
        dwi, adc = study.masks["r1", "dwi"], study.masks["r1", "adc"]
        assert np.median(study.dwi[dwi]) > 1.05 * np.median(study.dwi[brain])
        low.append(np.median(study.adc[adc]) < 0.95 * np.median(study.adc[brain]))
    assert np.mean(low) >= 0.9


def test_lesion_adc_is_about_two_thirds_of_the_brains(strokes):
    lesion = [np.median(study.adc[study.masks["r1", "adc"]]) for study in strokes]
    assert 0.55 < np.median(lesion) < 0.70


def test_bright_dwi_alone_does_not_mean_a_lesion(strokes):
    """Shine-through, cortex and artefacts put healthy voxels above the median lesion."""
    rivals = 0
    for study in strokes:
        lesion = np.median(study.dwi[study.masks["r1", "dwi"]])
        rivals += ((study.dwi > lesion) & healthy_brain(study)).sum() > 20
    assert rivals >= 3


def test_background_is_empty_on_adc_and_noisy_on_dwi(strokes):
    for study in strokes:
        corner = (slice(0, 6), slice(0, 6))
        assert not study.adc[corner].any()
        assert 0 < study.dwi[corner].mean() < 0.2 * np.median(study.dwi[healthy_brain(study)])


def test_controls_have_empty_masks_and_a_brain():
    study = phantom(1, "control")
    assert study.group == "control"
    assert not any(mask.any() for mask in study.masks.values())
    assert 0.7 < np.median(study.adc[healthy_brain(study)]) < 1.0


# Geometry


def test_spacing_and_slices_are_the_papers_at_256():
    study = phantom(2, matrix=256)
    width, height, step = spacing_mm(study)
    assert study.adc.shape[:2] == (256, 256)
    assert width == pytest.approx(height) and 0.83 <= width <= 0.94 and 5.5 <= step <= 7.2


def test_geometry_stays_in_range_and_differs_between_studies(strokes):
    spacings = np.array([spacing_mm(study) for study in strokes])
    slices = [study.adc.shape[2] for study in strokes]
    fields = spacings[:, 0] * MATRIX
    assert 20 <= min(slices) < max(slices) <= 26
    assert fields.min() >= 213 and fields.max() <= 240 and np.ptp(fields) > 5
    assert spacings[:, 2].min() >= 5.5 and spacings[:, 2].max() <= 7.2
    assert all(nib.aff2axcodes(study.affine) == ("L", "A", "S") for study in strokes)


def test_slices_option_is_kept():
    assert make_phantom(1, seed=0, group="control", matrix=32, slices=(9, 9)).adc.shape[2] == 9


def test_the_head_fits_into_the_field_of_view(strokes):
    for study in strokes:
        mask = study.adc > 0
        edge = np.concatenate([mask[[0, -1]].ravel(), mask[:, [0, -1]].ravel()])
        assert not edge.any()


# Raters


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pair", "mean"),
    [
        ("raters on adc", 0.65),
        ("raters on dwi", 0.70),
        ("modalities of r1", 0.65),
        ("modalities of r2", 0.65),
    ],
)
def test_agreement_is_the_papers(cohort_82, pair, mean):
    """Section 3, Fig. 2: the means within 0.06, and a quarter or so fair to moderate."""
    first, second = PAIRS[pair]
    kappas = np.array([cohen_kappa(s.masks[first], s.masks[second]) for s in cohort_82])
    assert kappas.mean() == pytest.approx(mean, abs=0.06)
    assert 0.10 < np.std(kappas) < 0.25
    assert 0.12 < np.mean((kappas > 0.2) & (kappas <= 0.6)) < 0.45


@pytest.mark.slow
def test_raters_do_not_merely_grow_or_shrink_each_other(cohort_82):
    """Within one cohort R2 draws more than R1 in some studies and less in others."""
    strokes = [s for s in cohort_82 if s.group == "stroke"]
    more = np.mean([volume_ml(s, ("r2", "dwi")) > volume_ml(s, ("r1", "dwi")) for s in strokes])
    assert 0.2 < more < 0.8


@pytest.mark.slow
def test_every_stroke_has_four_masks_with_something_in_them(cohort_82):
    for study in cohort_82:
        assert all(m.any() == (study.group == "stroke") for m in study.masks.values())


def test_volumes_drawn_spread_as_wanted():
    volumes = draw_lesion_volume_ml(np.random.default_rng(0), 20_000)
    low, middle, high = np.percentile(volumes, (5, 50, 95))
    assert low == pytest.approx(0.3, rel=0.15)
    assert middle == pytest.approx(13, rel=0.15)
    assert high == pytest.approx(200, rel=0.15)


@pytest.mark.slow
def test_volumes_outlined_spread_as_drawn(cohort_82):
    volumes = [volume_ml(s, ("r1", "dwi")) for s in cohort_82 if s.group == "stroke"]
    low, middle, high = np.percentile(volumes, (5, 50, 95))
    assert 0.12 < low < 0.75 and 6 < middle < 26 and 90 < high < 300


def test_one_volume_is_a_float():
    assert isinstance(draw_lesion_volume_ml(np.random.default_rng(0)), float)


# Files


def test_cohort_has_the_papers_layout(cohort_folder):
    names = [f"phantom-{index:03d}" for index in range(1, 5)]
    expected = {"studies.csv"}
    for name, (rater, modality) in itertools.product(names, MASK_KEYS):
        expected.add(f"{name}/Masks/{rater}/{modality}.nii.gz")
        expected.add(f"{name}/{modality.upper()}/{modality.upper()}.nii.gz")
    assert {path.as_posix() for path in contents(cohort_folder)} == expected


def test_files_hold_what_was_made(cohort_folder):
    groups = draw_groups(4, 1, seed=3)
    made = make_phantom(2, seed=3, group=groups[1], matrix=32, slices=(20, 22))
    home = cohort_folder / "phantom-002"
    adc, dwi = (nib.load(home / name / f"{name}.nii.gz") for name in ("ADC", "DWI"))
    mask = nib.load(home / "Masks" / "r2" / "dwi.nii.gz")
    assert adc.get_data_dtype() == dwi.get_data_dtype() == np.int16
    assert mask.get_data_dtype() == np.uint8
    assert adc.dataobj.slope == 1 and adc.dataobj.inter == 0
    np.testing.assert_allclose(adc.get_fdata() / 1000, made.adc, atol=0.00051)
    np.testing.assert_allclose(dwi.get_fdata(), made.dwi, atol=0.51)
    np.testing.assert_array_equal(np.asarray(mask.dataobj) > 0, made.masks["r2", "dwi"])


def test_headers_agree_on_where_the_head_is(cohort_folder):
    for path in cohort_folder.rglob("*.nii.gz"):
        image = nib.load(path)
        np.testing.assert_allclose(image.get_qform(), image.get_sform(), atol=1e-3)
        assert image.header.get_xyzt_units()[0] == "mm"
        assert image.header["qform_code"] == image.header["sform_code"] == 1


def test_table_lists_every_study_and_its_files(cohort_folder):
    with (cohort_folder / "studies.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    files = ["adc", "dwi", "mask_adc_r1", "mask_dwi_r1", "mask_adc_r2", "mask_dwi_r2"]
    assert list(rows[0]) == ["study", *files, "group", "split", "patient"]
    assert [row["group"] for row in rows].count("control") == 1
    for row in rows:
        assert row["split"] == "" and row["patient"] == row["study"]
        assert all((cohort_folder / row[c]).is_file() for c in files)
        assert row["mask_dwi_r2"].endswith("r2/dwi.nii.gz")


def test_controls_on_disk_are_those_of_the_table(cohort_folder):
    with (cohort_folder / "studies.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            mask = nib.load(cohort_folder / row["mask_dwi_r1"]).get_fdata()
            assert mask.any() == (row["group"] == "stroke")


def test_the_seed_draws_the_controls():
    assert draw_groups(82, 7, 0) == draw_groups(82, 7, 0) != draw_groups(82, 7, 1)
    assert draw_groups(82, 7, 0).count("control") == 7


def test_existing_output_is_refused_and_kept(tmp_path):
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(InputError, match="exists"):
        write_phantom_cohort(tmp_path, **COHORT)
    assert [p.name for p in tmp_path.iterdir()] == ["note.txt"]


def test_an_empty_output_folder_is_used(tmp_path):
    out = tmp_path / "cohort"
    out.mkdir()
    write_phantom_cohort(out, studies=1, controls=0, matrix=32)
    assert (out / "studies.csv").is_file()


def test_a_failure_leaves_nothing_behind(tmp_path):
    def stop(done, total):
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        write_phantom_cohort(tmp_path / "cohort", **COHORT, on_study=stop)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("bad", "word"),
    [
        ({"studies": 0, "controls": 0}, "studies"),
        ({"studies": 3, "controls": 4}, "controls"),
        ({"controls": -1}, "controls"),
        ({"matrix": 31}, "matrix"),
        ({"slices": (26, 20)}, "slices"),
        ({"slices": (0, 3)}, "slices"),
        ({"seed": -1}, "seed"),
        ({"jobs": 0}, "jobs"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_written(tmp_path, bad, word):
    with pytest.raises(ValueError, match=f"{word}.*Received instead"):
        write_phantom_cohort(tmp_path / "cohort", **{**COHORT, **bad})
    assert not list(tmp_path.iterdir())


def test_an_unknown_group_is_refused():
    with pytest.raises(ValueError, match="stroke, control"):
        make_phantom(1, seed=0, group="patient", matrix=32)
