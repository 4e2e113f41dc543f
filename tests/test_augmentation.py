"""Augmentation: stateless, geometric on image and mask alike, and each transform alone."""

import concurrent.futures
import os
import subprocess
import sys

import numpy as np
import pytest
from augmenters import OFF, augmenter

from strokeseg_tf.augmentation.engines import ENGINES
from strokeseg_tf.augmentation.reference import AUGMENTATIONS

SIZE = 48


@pytest.fixture(params=ENGINES)
def engine(request):
    return request.param


def pair(modalities=2):
    """Smooth images in [0, 1], and masks off the centre that are images too."""
    y, x = np.mgrid[:SIZE, :SIZE] / SIZE
    centres = [(0.35, 0.6), (0.6, 0.3)][:modalities]
    images = [np.exp(-8 * ((y - a) ** 2 + (x - b) ** 2)) for a, b in centres]
    images = np.stack(images, -1).astype(np.float32)
    return images, images > 0.6


def assert_equal(first, second):
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


def differ(first, second):
    return not np.array_equal(first[0], second[0])


@pytest.mark.parametrize("modalities", [1, 2])
def test_shapes_types_and_range_are_kept(engine, modalities):
    images, masks = pair(modalities)
    augment = augmenter(engine, brightness=1.0, contrast=1.0)
    for index in range(10):
        augmented, moved = augment(images, masks, 0, index)
        assert augmented.shape == images.shape and augmented.dtype == np.float32
        assert moved.shape == masks.shape and moved.dtype == bool
        assert augmented.min() >= 0 and augmented.max() <= 1


def test_the_arguments_are_left_alone(engine):
    images, masks = pair()
    before = images.copy(), masks.copy()
    for index in range(5):
        augmenter(engine)(images, masks, 0, index)
    assert_equal((images, masks), before)


def test_the_same_seed_epoch_and_index_give_the_same_whatever_came_before(engine):
    images, masks = pair()
    used = augmenter(engine, seed=3, probability=0.5)
    for index in range(5):
        used(images, masks, 0, index)
    for index in range(5):
        fresh = augmenter(engine, seed=3, probability=0.5)
        assert_equal(used(images, masks, 7, index), fresh(images, masks, 7, index))


def test_threads_do_not_disturb_each_other(engine):
    images, masks = pair()
    augment = augmenter(engine, probability=0.5)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda index: augment(images, masks, 0, index), range(40)))
    alone = augmenter(engine, probability=0.5)
    for index, result in enumerate(results):
        assert_equal(result, alone(images, masks, 0, index))


@pytest.mark.parametrize("changed", ["seed", "epoch", "index"])
def test_seed_epoch_and_index_each_change_the_result(engine, changed):
    images, masks = pair()
    base = {"seed": 1, "epoch": 2, "index": 3}
    results = []
    for value in range(10, 14):
        arguments = base | {changed: value}
        augment = augmenter(engine, seed=arguments["seed"])
        results.append(augment(images, masks, arguments["epoch"], arguments["index"]))
    assert all(differ(results[0], other) for other in results[1:])


def test_epoch_and_index_do_not_stand_in_for_each_other(engine):
    images, masks = pair()
    augment = augmenter(engine)
    assert differ(augment(images, masks, 1, 2), augment(images, masks, 2, 1))


def test_at_probability_0_nothing_changes(engine):
    images, masks = pair()
    augment = augmenter(engine, probability=0.0)
    for index in range(5):
        assert_equal(augment(images, masks, 0, index), (images, masks))


def test_with_everything_off_nothing_changes(engine):
    images, masks = pair()
    assert list(OFF) == list(AUGMENTATIONS)
    augment = augmenter(engine, only=())
    assert_equal(augment(images, masks, 0, 0), (images, masks))


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_each_transform_takes_effect_alone(engine, name):
    images, masks = pair()
    augment = augmenter(engine, only={name})
    results = [augment(images, masks, 0, index) for index in range(3)]
    assert all(differ(result, (images, masks)) for result in results)
    moved = any(not np.array_equal(result[1], masks) for result in results)
    assert moved is (name != "brightness_contrast")


@pytest.mark.parametrize("name", ["all", *AUGMENTATIONS])
def test_image_and_mask_move_together(engine, name):
    _, masks = pair()
    only = OFF.keys() - {"brightness_contrast"} if name == "all" else {name}
    augment = augmenter(engine, only)
    for index in range(5):
        images, moved = augment(masks.astype(np.float32), masks, 0, index)
        threshold = (images.min() + images.max()) / 2
        same = images > threshold
        assert moved.any(axis=(0, 1)).all()
        assert (same & moved).sum() / (same | moved).sum() > 0.9


def test_transforms_are_drawn_independently(engine):
    """Two flips and a transpose, each applied or not, reach all eight orientations."""
    images, masks = pair()
    augment = augmenter(engine, only={"flips", "transpose"}, probability=0.5)
    seen = {augment(images, masks, 0, index)[0].tobytes() for index in range(80)}
    flipped = [images, images[::-1], images[:, ::-1], images[::-1, ::-1]]
    assert seen == {
        np.ascontiguousarray(way).tobytes()
        for image in flipped
        for way in (image, image.transpose(1, 0, 2))
    }


def test_both_modalities_share_brightness_and_contrast(engine):
    image = pair(1)[0] * 0.5 + 0.25
    images = np.repeat(image, 2, axis=-1)
    augment = augmenter(engine)
    for index in range(3):
        augmented, _ = augment(images, images > 0.5, 0, index)
        np.testing.assert_allclose(augmented[..., 0], augmented[..., 1], atol=1e-5)


def test_importing_it_imports_no_albumentations_and_keeps_that_off_the_network():
    script = (
        "import os, socket, sys\n"
        "import strokeseg_tf.augmentation.engines\n"
        "assert 'albumentations' not in sys.modules\n"
        "assert os.environ['NO_ALBUMENTATIONS_UPDATE'] == '1'\n"
        "def refuse(*_): print('reached for the network')\n"
        "socket.getaddrinfo = socket.socket.connect = refuse\n"
        "import albumentations\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != "NO_ALBUMENTATIONS_UPDATE"}
    result = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True
    )
    assert (result.returncode, result.stdout) == (0, ""), result.stderr
