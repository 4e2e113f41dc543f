"""Overlap metrics: by hand, at the edges, over batches."""

import numpy as np
import pytest

from strokeseg_tf.metrics import METRICS, Dice, build_metrics

MASK = np.array([[1, 1, 1, 0, 0, 0]])
#: Two of three lesion pixels found, one pixel too many.
LOGITS = np.array([[2.0, 0.1, -1.0, 3.0, -0.1, -9.0]], np.float32)


def measure(mask, logits, threshold=0.5):
    values = {}
    for metric in build_metrics(threshold):
        metric.update_state(mask, logits)
        values[metric.name] = float(metric.result())
    return values


def approximately(dice, precision, sensitivity):
    return pytest.approx({"dice": dice, "precision": precision, "sensitivity": sensitivity})


def test_a_case_computed_by_hand():
    assert measure(MASK, LOGITS) == approximately(2 * 2 / (3 + 3), 2 / 3, 2 / 3)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.float32, np.float64])
def test_masks_may_have_any_dtype(dtype):
    assert measure(MASK.astype(dtype), LOGITS) == approximately(2 / 3, 2 / 3, 2 / 3)


@pytest.mark.parametrize(
    "reference, predicted, expected",
    [
        ("mask", "mask", (1, 1, 1)),
        ("mask", "complement", (0, 0, 0)),
        ("empty", "empty", (1, 1, 1)),
        ("full", "full", (1, 1, 1)),
        ("empty", "full", (0, 0, 1)),
        ("full", "empty", (0, 1, 0)),
        ("full", "mask", (2 / 3, 1, 0.5)),
        ("mask", "full", (2 / 3, 0.5, 1)),
    ],
)
def test_the_edges(reference, predicted, expected):
    masks = {"mask": MASK, "complement": 1 - MASK, "empty": 0 * MASK, "full": 0 * MASK + 1}
    logits = np.where(masks[predicted], 5.0, -5.0)
    assert measure(masks[reference], logits) == approximately(*expected)


@pytest.mark.parametrize("threshold", [0.01, 0.3, 0.5, 0.9])
def test_the_threshold_is_a_probability_and_lies_outside_of_the_lesion(threshold):
    cut = np.log(threshold / (1 - threshold))
    logits = np.array([[cut - 1e-3, cut + 1e-3]], np.float32)
    assert measure(np.array([[1, 1]]), logits, threshold)["sensitivity"] == 0.5
    if threshold == 0.5:
        assert measure(np.array([[1]]), np.zeros((1, 1)))["sensitivity"] == 0


@pytest.mark.parametrize("kind", METRICS)
def test_batches_are_pooled_and_a_reset_forgets_them(kind):
    rng = np.random.default_rng(0)
    masks = rng.random((6, 8, 8, 1)) < np.linspace(0, 0.5, 6)[:, None, None, None]
    logits = rng.standard_normal(masks.shape).astype(np.float32)
    pooled, batched = METRICS[kind](), METRICS[kind]()
    pooled.update_state(masks, logits)
    for mask, values in zip(masks, logits, strict=True):
        batched.update_state(mask, values)
    assert float(batched.result()) == float(pooled.result())
    batched.reset_state()
    batched.update_state(masks[:1], logits[:1])
    assert float(batched.result()) == pytest.approx(measure(masks[:1], logits[:1])[kind])


def test_dice_is_the_harmonic_mean_of_precision_and_sensitivity():
    rng = np.random.default_rng(0)
    values = measure(rng.random((4, 8, 8, 1)) < 0.3, rng.standard_normal((4, 8, 8, 1)))
    mean = 2 / (1 / values["precision"] + 1 / values["sensitivity"])
    assert values["dice"] == pytest.approx(mean)


def test_names_take_the_prefix_of_a_head():
    assert [m.name for m in build_metrics(0.5, "adc_")] == [f"adc_{kind}" for kind in METRICS]
    assert Dice().name == "dice"
