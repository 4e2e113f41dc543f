"""Normalising, resizing, and back."""

import numpy as np
import pytest

from strokeseg_tf.preprocessing import normalise, preprocess, preprocess_mask, restore, volume_range


def volume(shape=(3, 20, 24), seed=0):
    """An ADC-like volume in 1e-3 mm2/s."""
    return (3 * np.random.default_rng(seed).random(shape)).astype(np.float32)


def prepared(image, size=16):
    return preprocess(image, volume_range(image), size).numpy()


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3, 1e6])
@pytest.mark.parametrize("shift", [0.0, -1.0, 5.0])
def test_the_unit_of_an_image_and_its_zero_do_not_matter(scale, shift):
    image = volume()
    other = ((image.astype(np.float64) + shift) * scale).astype(np.float32)
    np.testing.assert_allclose(prepared(other), prepared(image), atol=1e-5)


@pytest.mark.parametrize("size", [8, 16, 20, 33, 64])
def test_every_size_gives_floats_in_0_to_1(size):
    result = prepared(volume() - 1, size)
    assert result.shape == (3, size, size, 1) and result.dtype == np.float32
    assert result.min() >= 0 and result.max() <= 1


def test_normalising_is_min_max_over_the_volume_and_not_over_slices():
    image = volume()
    image[0] /= 10
    result = normalise(image, volume_range(image)).numpy()
    assert result.min() == 0 and result.max() == 1 and result[0].max() < 0.2
    np.testing.assert_allclose(result, (image - image.min()) / np.ptp(image), rtol=1e-6)


@pytest.mark.parametrize("value", [0.0, 7.0, -1e6])
def test_a_constant_volume_becomes_0(value):
    np.testing.assert_array_equal(prepared(np.full((2, 20, 20), value, np.float32)), 0)


def test_a_slice_is_prepared_as_in_its_volume():
    image = volume()
    alone = preprocess(image[1:2], volume_range(image), 16).numpy()
    np.testing.assert_array_equal(alone[0], prepared(image)[1])


def test_at_the_native_size_nothing_is_resampled():
    image = volume((2, 16, 16))
    expected = (image - image.min()) / np.ptp(image)
    np.testing.assert_allclose(prepared(image)[..., 0], expected, rtol=1e-6)
    np.testing.assert_array_equal(restore(image[..., None], 16, 16).numpy(), image)
    mask = image > 1
    np.testing.assert_array_equal(preprocess_mask(mask, 16).numpy()[..., 0], mask)


@pytest.mark.parametrize("size", [10, 16, 33, 48])
@pytest.mark.parametrize("shape", [(2, 20, 20), (2, 20, 31)])
def test_masks_take_the_nearest_pixel(shape, size):
    mask = volume(shape) > 2
    result = preprocess_mask(mask, size).numpy()
    assert result.shape == (2, size, size, 1) and result.dtype == bool
    rows, columns = (
        np.minimum(((np.arange(size) + 0.5) * n / size).astype(int), n - 1) for n in shape[1:]
    )
    np.testing.assert_array_equal(result[..., 0], mask[:, rows][:, :, columns])


@pytest.mark.parametrize("height, width", [(20, 24), (24, 20), (16, 16), (300, 288)])
def test_the_way_back_has_the_native_shape(height, width):
    probabilities = np.random.default_rng(0).random((2, 16, 16, 1), dtype=np.float32)
    result = restore(probabilities, height, width).numpy()
    assert result.shape == (2, height, width) and result.dtype == np.float32
    assert result.min() >= 0 and result.max() <= 1


def centre_of(weights):
    axes = np.mgrid[: weights.shape[0], : weights.shape[1]]
    return np.array([(weights * axis).sum() / weights.sum() for axis in axes])


@pytest.mark.parametrize("size", [24, 32, 64])
@pytest.mark.parametrize("height, width", [(40, 40), (48, 36), (32, 60)])
def test_a_blob_comes_back_to_its_place(height, width, size):
    """A way that shifted by half a pixel of the coarser grid would show."""
    y, x = np.mgrid[:height, :width]
    image = np.exp(-((y - 0.3 * height) ** 2 + (x - 0.7 * width) ** 2) / 32)
    image = image[None].astype(np.float32)
    mask = image > 0.5
    back = restore(prepared(image, size), height, width).numpy()
    np.testing.assert_allclose(centre_of(back[0]), centre_of(image[0]), atol=0.1)
    masks = preprocess_mask(mask, size).numpy().astype(np.float32)
    for volume in (back, restore(masks, height, width).numpy()):
        found = volume > 0.5
        assert 2 * (found & mask).sum() / (found.sum() + mask.sum()) > 0.85
