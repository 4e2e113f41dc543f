"""Shards -> arrays -> batches."""

import shutil

import numpy as np
import pytest

from strokeseg_tf import pipeline
from strokeseg_tf.config import PAPER
from strokeseg_tf.losses import FocalLoss
from strokeseg_tf.models.variants import build_model
from strokeseg_tf.pipeline import EpochOrder, Slices, load_slices, training_batches, usable_studies
from strokeseg_tf.prediction.keras_engine import KerasEngine
from strokeseg_tf.prediction.network import NetworkPredictor
from strokeseg_tf.preprocessing import preprocess, preprocess_mask, volume_range
from strokeseg_tf.validation import dice, validate
from tfrecord_tools.conversion import convert
from tfrecord_tools.errors import InputError
from tfrecord_tools.reader import read_studies, shard_slice_pairs
from tfrecord_tools.shards import read_dataset_info

BOTH = ("adc", "dwi")
SIZE = 32
STILL = PAPER.replace(augmentation={"probability": 0.0}).augmentation


def load(shards, split="train", modalities=BOTH, rater="r1"):
    return load_slices(shards, split, modalities=modalities, rater=rater, size=SIZE)


def numbered(count, size=8):
    """Slice pairs that can be told apart by their first pixel."""
    images = np.zeros((count, size, size, 2), np.float32)
    images[...] = np.arange(count)[:, None, None, None] / count
    return Slices(images, images > 0.5)


def batches(slices, *, epochs, batch_size=4, augmentation=STILL, modalities=BOTH, seed=0):
    order = EpochOrder(slices, seed=seed, batch_size=batch_size)
    dataset = training_batches(
        slices, order, modalities=modalities, augmentation=augmentation, epochs=epochs
    )
    return list(dataset.as_numpy_iterator()), order.steps


def orders(count, *, epochs, batch_size=4, seed=0):
    """The numbers of the pairs of each epoch."""
    given, steps = batches(numbered(count), epochs=epochs, batch_size=batch_size, seed=seed)
    numbers = [np.rint(x["adc"][:, 0, 0, 0] * count).astype(int).tolist() for x, _ in given]
    assert len(numbers) == steps * len(epochs)
    return [sum(numbers[i : i + steps], []) for i in range(0, len(numbers), steps)]


@pytest.mark.parametrize("modalities", [("adc",), ("dwi",), BOTH])
@pytest.mark.parametrize("rater", ["r1", "r2"])
def test_slices_are_the_preprocessed_studies_in_their_order(shards, modalities, rater):
    slices = load(shards, "test", modalities, rater)
    images, masks = [], []
    for study in read_studies(shards, "test"):
        prepared = [
            preprocess(study.images[m], volume_range(study.images[m]), SIZE) for m in modalities
        ]
        images.append(np.concatenate(prepared, -1))
        drawn = [preprocess_mask(study.masks[rater, m], SIZE) for m in modalities]
        masks.append(np.concatenate(drawn, -1))
    np.testing.assert_allclose(slices.images, np.concatenate(images), atol=1e-6)
    np.testing.assert_array_equal(slices.masks, np.concatenate(masks))
    assert (slices.images.dtype, slices.masks.dtype) == (np.float32, bool)
    info = read_dataset_info(shards)
    assert len(slices) == sum(info.studies[study]["slices"] for study in info.splits["test"])


def test_raters_have_masks_of_their_own(shards):
    first, second = load(shards, rater="r1"), load(shards, rater="r2")
    np.testing.assert_array_equal(first.images, second.images)
    assert first.masks.any() and not np.array_equal(first.masks, second.masks)


def test_many_slices_live_in_a_file_and_are_the_same(shards, monkeypatch):
    in_memory = load(shards)
    monkeypatch.setattr(pipeline, "MEMORY_LIMIT_BYTES", 0)
    in_file = load(shards)
    assert isinstance(in_file.images, np.memmap) and not isinstance(in_memory.images, np.memmap)
    np.testing.assert_array_equal(in_file.images, in_memory.images)
    np.testing.assert_array_equal(in_file.masks, in_memory.masks)


@pytest.mark.parametrize("modalities", [("dwi",), BOTH])
def test_batches_have_the_documented_keys_shapes_and_types(shards, modalities):
    slices = load(shards, modalities=modalities)
    given, steps = batches(
        slices, epochs=range(1), modalities=modalities, augmentation=PAPER.augmentation
    )
    assert len(given) == steps == len(slices) // 4
    for inputs, targets in given:
        assert list(inputs) == list(targets) == list(modalities)
        for array in (*inputs.values(), *targets.values()):
            assert array.shape == (4, SIZE, SIZE, 1) and array.dtype == np.float32
        assert all(x.min() >= 0 and x.max() <= 1 for x in inputs.values())
        assert set(np.unique([*targets.values()])) <= {0, 1}


def test_a_batch_holds_each_modality_and_its_masks(shards):
    slices = load(shards)
    given, _ = batches(slices, epochs=range(1), batch_size=1)
    pairs = {image.tobytes(): mask for image, mask in zip(slices.images, slices.masks, strict=True)}
    for inputs, targets in given:
        image = np.concatenate([inputs[m][0] for m in BOTH], -1)
        mask = np.concatenate([targets[m][0] for m in BOTH], -1)
        np.testing.assert_array_equal(mask, pairs[image.tobytes()])


@pytest.mark.parametrize("count, batch_size, steps", [(10, 4, 2), (8, 4, 2), (3, 16, 1), (5, 1, 5)])
def test_an_epoch_has_its_steps_and_gives_every_pair_at_most_once(count, batch_size, steps):
    _, promised = batches(numbered(count), epochs=range(0), batch_size=batch_size)
    assert promised == steps
    for order in orders(count, epochs=range(5), batch_size=batch_size):
        assert len(order) == len(set(order)) == steps * min(batch_size, count)


def test_what_an_epoch_leaves_out_another_gives():
    assert set(sum(orders(7, epochs=range(10)), [])) == set(range(7))


def test_epochs_and_seeds_have_orders_of_their_own():
    first, second = orders(20, epochs=range(2))
    assert first != second
    assert orders(20, epochs=range(2)) == [first, second]
    assert orders(20, epochs=range(1), seed=1) != [first]


def test_training_can_start_at_any_epoch(shards):
    slices = load(shards)
    everything, steps = batches(slices, epochs=range(4), augmentation=PAPER.augmentation)
    tail, _ = batches(slices, epochs=range(2, 4), augmentation=PAPER.augmentation)
    assert len(tail) == 2 * steps
    for expected, given in zip(everything[2 * steps :], tail, strict=True):
        for one, other in zip(expected, given, strict=True):
            for modality in BOTH:
                np.testing.assert_array_equal(one[modality], other[modality])


def test_epochs_are_augmented_differently(shards):
    slices = load(shards)
    slices = Slices(*(np.repeat(a[:1], 4, axis=0) for a in (slices.images, slices.masks)))
    given, _ = batches(slices, epochs=range(3), augmentation=PAPER.augmentation)
    seen = {image.tobytes() for inputs, _ in given for image in inputs["adc"]}
    assert len(seen) > 6


@pytest.mark.parametrize("count", [2, 4])
def test_workers_together_get_the_batches_of_one(shards, count):
    slices, settings = load(shards), PAPER.augmentation
    order = EpochOrder(slices, seed=0, batch_size=4, parts=count)

    def given(index, count):
        arguments = {"modalities": BOTH, "augmentation": settings, "epochs": range(2)}
        parts = training_batches(slices, order, share=(index, count), **arguments)
        return [masks["dwi"] for _, masks in parts.as_numpy_iterator()]

    parts = zip(*(given(index, count) for index in range(count)), strict=True)
    for whole, part in zip(given(0, 1), parts, strict=True):
        np.testing.assert_array_equal(np.concatenate(part), whole)


def test_slices_know_their_studies(shards):
    slices = load(shards, "test")
    expected = [s.study for s in read_studies(shards, "test") for _ in s.images["adc"]]
    assert slices.studies.tolist() == expected


@pytest.fixture(scope="module")
def incomplete(cohort, tmp_path_factory):
    """Shards of three studies: complete, without DWI, without R2's masks."""
    folder = tmp_path_factory.mktemp("incomplete")
    for study in ("phantom-001", "phantom-002", "phantom-003"):
        shutil.copytree(cohort / study, folder / "cohort" / study)
    shutil.rmtree(folder / "cohort/phantom-002/DWI")
    for rater in ("r1", "r2"):
        (folder / f"cohort/phantom-002/Masks/{rater}/dwi.nii.gz").unlink()
    shutil.rmtree(folder / "cohort/phantom-003/Masks/r2")
    convert(folder / "cohort", folder / "shards", shares={"train": 1.0})
    return folder / "shards"


@pytest.mark.parametrize(
    "modalities, rater, expected",
    [
        (("adc",), "r1", {1, 2, 3}),
        (("dwi",), "r1", {1, 3}),
        (BOTH, "r1", {1, 3}),
        (("adc",), "r2", {1, 2}),
        (BOTH, "r2", {1}),
    ],
)
def test_studies_without_the_images_or_the_raters_masks_are_left_out(
    incomplete, modalities, rater, expected
):
    usable, left_out = usable_studies(incomplete, "train", modalities, rater)
    assert {int(study[-3:]) for study in usable} == expected
    assert {int(study[-3:]) for study in left_out} == {1, 2, 3} - expected
    studies = read_dataset_info(incomplete).studies
    slices = load(incomplete, modalities=modalities, rater=rater)
    assert len(slices) == sum(studies[study]["slices"] for study in usable)
    assert slices.images.min() >= 0 and slices.images.max() <= 1


def test_a_split_without_usable_studies_is_refused(shards):
    with pytest.raises(InputError, match="no study of the split 'train'.*rater 'r9'"):
        load(shards, rater="r9")
    with pytest.raises(InputError, match="no split 'holdout'"):
        load(shards, "holdout")


def flip_a_bit(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def without_its_last_record(content):
    start = 0
    while True:  # A record: length (8 bytes), CRC (4), content, CRC (4).
        end = start + 16 + int.from_bytes(content[start : start + 8], "little")
        if end == len(content):
            return content[:start]
        start = end


@pytest.mark.parametrize(
    "damage",
    [flip_a_bit, without_its_last_record, lambda content: content[:-100], lambda content: b""],
    ids=["flipped bit", "lost record", "cut off", "empty"],
)
def test_a_damaged_shard_is_named(shards, tmp_path, damage):
    folder = shutil.copytree(shards, tmp_path / "shards")
    shard = min(folder.glob("train-*.tfrecord"))
    shard.write_bytes(damage(shard.read_bytes()))
    with pytest.raises(InputError, match=shard.name):
        load(folder)


def test_a_missing_shard_is_named(shards, tmp_path):
    folder = shutil.copytree(shards, tmp_path / "shards")
    shard = min(folder.glob("train-*.tfrecord"))
    shard.unlink()
    with pytest.raises(InputError, match=shard.name):
        load(folder)


def test_the_validation_loss_is_the_loss_over_all_slices_summed_over_the_heads(shards):
    model = build_model(
        PAPER.replace(model={"image_size": SIZE, "filters": [2, 3], "bottleneck": 4}).model
    )
    loss = FocalLoss()
    scores = validate(NetworkPredictor(KerasEngine(model)), loss, shards, "validation", "r1")
    slices = load(shards, "validation")
    logits = model({m: slices.images[..., i : i + 1] for i, m in enumerate(BOTH)}, training=False)
    heads = [float(loss(slices.masks[..., i : i + 1], logits[m])) for i, m in enumerate(BOTH)]
    assert scores["val_loss"] == pytest.approx(sum(heads), rel=1e-5)
    assert set(scores) >= {"val_loss", "val_adc_dice", "val_dwi_dice"}


@pytest.mark.parametrize(
    "reference, prediction, expected",
    [
        ([1, 1, 0], [1, 1, 0], 1),
        ([0, 0], [0, 0], 1),
        ([0, 0], [1, 0], 0),
        ([1, 1, 0], [0, 1, 1], 0.5),
    ],
)
def test_dice_of_a_study(reference, prediction, expected):
    assert dice(np.array(reference, bool), np.array(prediction, bool)) == expected


def test_neither_reading_nor_training_ends_with_a_wait_for_the_tuning_thread(shards):
    read = [pairs.map(lambda pair: pair["dwi"]) for pairs in shard_slice_pairs(shards, "train")]
    slices = numbered(8)
    order = EpochOrder(slices, seed=0, batch_size=4)
    settings = {"modalities": BOTH, "augmentation": STILL, "epochs": range(2)}
    trained = training_batches(slices, order, **settings)
    assert [dataset.options().autotune.enabled for dataset in [*read, trained]] == [
        False for _ in [*read, trained]
    ]
