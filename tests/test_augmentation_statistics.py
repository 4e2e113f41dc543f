"""The fast augmentation against albumentations: the same displacements and intensities, as drawn.

Each transform alone. A slice whose two images hold x and y tells where each pixel came from.
"""

import functools

import numpy as np
import pytest
from augmenters import OFF, augmenter
from scipy.stats import ks_2samp

from strokeseg_tf.augmentation.engines import ENGINES

SIZE, DRAWS = 64, 200
#: Pixels along the border that are left out: zeros come in there, and the reference's elastic noise
#: is stronger there.
RIM = 8
MOVING = [name for name in OFF if name != "brightness_contrast"]
WARPS = ("rotation", "elastic", "grid_distortion", "optical_distortion")


def augmented(engine, only, images, masks, **changes):
    """DRAWS augmentations of a slice pair by some transforms alone."""
    augment = augmenter(engine, only, **changes)
    return [augment(images, masks, 0, index) for index in range(DRAWS)]


@functools.cache
def displacements(engine, names):
    """How far from where it was each pixel was sampled: `(DRAWS, rows, columns, 2)`, in pixels."""
    y, x = np.mgrid[:SIZE, :SIZE].astype(np.float32)
    positions = np.stack([x, y], -1)
    pairs = augmented(engine, names, positions / (SIZE - 1), np.ones(positions.shape, bool))
    moved = np.stack([images for images, _ in pairs]) * (SIZE - 1) - positions
    return moved[:, RIM:-RIM, RIM:-RIM]


def statistics_of(moved):
    """Of each draw: means along x and y, root mean square, largest."""
    lengths = np.linalg.norm(moved, axis=-1)
    return {
        "mean x": moved[..., 0].mean((1, 2)),
        "mean y": moved[..., 1].mean((1, 2)),
        "rms": np.sqrt((lengths**2).mean((1, 2))),
        "largest": lengths.max((1, 2)),
    }


@pytest.mark.parametrize("names", [*((n,) for n in MOVING), WARPS], ids="+".join)
def test_displacements_are_those_of_the_reference(names):
    fast, reference = (statistics_of(displacements(engine, names)) for engine in ENGINES)
    scale = float(reference["rms"].mean())
    for name in ("mean x", "mean y", "rms"):
        assert fast[name].mean() == pytest.approx(reference[name].mean(), abs=0.1 * scale), name
        assert fast[name].std() == pytest.approx(reference[name].std(), abs=0.1 * scale), name
    # Where cells of the grid distortion meet, the reference steps by up to a pixel, the fast
    # engine's lattice smooths: half a pixel either way.
    assert fast["largest"].mean() == pytest.approx(reference["largest"].mean(), rel=0.05, abs=0.5)


@pytest.mark.parametrize("name", ["rotation", "elastic", "optical_distortion"])
def test_displacements_are_distributed_as_those_of_the_reference(name):
    fast, reference = (statistics_of(displacements(engine, (name,))) for engine in ENGINES)
    for statistic in ("rms", "largest"):
        assert ks_2samp(fast[statistic], reference[statistic]).pvalue > 0.01, statistic


def test_elastic_noise_is_as_smooth_as_that_of_the_reference():
    def neighbours(engine):
        moved = displacements(engine, ("elastic",))
        return np.corrcoef(moved[:, 1:].ravel(), moved[:, :-1].ravel())[0, 1]

    fast, reference = map(neighbours, ENGINES)
    assert fast == pytest.approx(reference, abs=0.01)


def test_brightness_and_contrast_are_distributed_as_those_of_the_reference():
    images = np.full((16, 16, 2), 0.25, np.float32)
    images[8:] = 0.75
    factors, shifts = [], []
    for engine in ENGINES:
        pairs = augmented(engine, ("brightness_contrast",), images, images > 0.5)
        dark, bright = np.array([(image[0, 0, 0], image[-1, 0, 0]) for image, _ in pairs]).T
        factors.append((bright - dark) / 0.5)
        shifts.append(dark - 0.25 * factors[-1])
    for drawn, middle in ((factors, 1), (shifts, 0)):
        assert ks_2samp(*drawn).pvalue > 0.01
        for values in drawn:
            assert values.mean() == pytest.approx(middle, abs=0.02)
            assert np.abs(values - middle).max() == pytest.approx(0.1, abs=0.01)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", OFF)
def test_each_transform_is_applied_with_its_probability(engine, name):
    y, x = np.mgrid[:16, :16].astype(np.float32) / 16
    images = np.stack([0.7 * x + 0.1 * y, 0.2 + 0.3 * y * x], -1)
    # Of two flips at least one is drawn three times in four.
    expected = 0.75 if name == "flips" else 0.5
    pairs = augmented(engine, (name,), images, images > 0.5, probability=0.5)
    changed = [not np.array_equal(image, images) for image, _ in pairs]
    # Four standard deviations of a count.
    assert np.mean(changed) == pytest.approx(expected, abs=4 * (0.25 / DRAWS) ** 0.5)


@pytest.mark.parametrize("names", [*((n,) for n in MOVING), MOVING], ids="+".join)
def test_a_pixel_between_like_pixels_has_the_mask_of_its_image(names):
    """Images of zeros and ones and their own masks: sampled in one place, they cannot part."""
    y, x = np.mgrid[:SIZE, :SIZE]
    masks = np.stack([(x - 25) ** 2 + (y - 30) ** 2 < 150, (x // 7 + y // 5) % 2 == 0], -1)
    for images, moved in augmented("fast", names, masks.astype(np.float32), masks)[:50]:
        assert moved[images == 1].all() and not moved[images == 0].any()
        # Between unlike pixels a mask has the value of the nearest.
        assert (moved == (images > 0.5)).mean() > 0.9
