"""A study survives being cut into slice pairs."""

import numpy as np
import pytest

from tfrecord_tools.grid import Grid
from tfrecord_tools.records import from_records, mask_key, to_records
from tfrecord_tools.schema import decode, encode
from tfrecord_tools.study import Study

OBLIQUE = np.array([[-0.9, 0.1, 0, 90], [0.1, 0.9, 0.3, -80], [0, -0.05, 6, 7], [0, 0, 0, 1.0]])


def make_study(shape=(5, 7, 3), modalities=("adc", "dwi"), masks=(), adc_grid=None):
    rng = np.random.default_rng(0)
    stack = (shape[2], *shape[:2])
    return Study(
        study="étude 1",
        patient="patient 1",
        group="stroke",
        images={m: rng.normal(size=stack).astype(np.float32) for m in modalities},
        masks={key: rng.random(stack) > 0.5 for key in masks},
        grid=Grid(shape, OBLIQUE),
        adc_scale=1e-3,
        adc_grid=adc_grid,
    )


def assert_same_grid(grid, expected):
    assert grid.shape == expected.shape
    np.testing.assert_array_equal(grid.affine, expected.affine)


STUDIES = {
    "both modalities, four masks": make_study(
        masks=[("r1", "adc"), ("r1", "dwi"), ("r2", "adc"), ("r2", "dwi")]
    ),
    "ADC only": make_study(modalities=["adc"], masks=[("r1", "adc")]),
    "DWI only, no mask": make_study(modalities=["dwi"]),
    "a rater with an underscore": make_study(masks=[("senior_reader", "dwi")]),
    "ADC resampled": make_study(adc_grid=Grid((4, 4, 9), np.diag([2.0, 2, 3, 1]))),
    "one voxel a slice": make_study((1, 1, 4), masks=[("r1", "adc")]),
    "pixels not a multiple of 8": make_study((3, 3, 2), masks=[("r1", "adc"), ("r2", "adc")]),
}


@pytest.mark.parametrize("study", STUDIES.values(), ids=STUDIES)
def test_a_study_comes_back_from_its_records(study):
    back = from_records([decode(encode(record)) for record in to_records(study)])
    assert (back.study, back.patient, back.group) == (study.study, study.patient, study.group)
    assert back.adc_scale == study.adc_scale
    assert_same_grid(back.grid, study.grid)
    assert (back.adc_grid is None) == (study.adc_grid is None)
    if study.adc_grid:
        assert_same_grid(back.adc_grid, study.adc_grid)
    for found, expected in ((back.images, study.images), (back.masks, study.masks)):
        assert found.keys() == expected.keys()
        for key, array in expected.items():
            assert found[key].dtype == array.dtype
            np.testing.assert_array_equal(found[key], array)


def test_every_record_knows_the_range_of_its_volume():
    study = make_study()
    for record in to_records(study):
        for modality, image in study.images.items():
            assert record[f"{modality}_range"].tolist() == [image.min(), image.max()]


def test_records_stand_in_the_order_of_slices():
    records = list(to_records(make_study()))
    assert [record["slice_index"] for record in records] == [0, 1, 2]
    assert {record["slice_count"] for record in records} == {3}


@pytest.mark.parametrize("key", [("r1", "adc"), ("senior_reader", "dwi"), ("a b", "adc")])
def test_a_mask_key_comes_back_from_its_name(key):
    assert mask_key("_".join(key)) == key
