"""Eq. (1): against plain numpy, against Keras, and what its parameters do to the gradient."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from strokeseg_tf.config import LossSettings
from strokeseg_tf.losses import ALPHA_READINGS, FocalLoss, build_loss

PARAMETERS = [
    # alpha, gamma, lesion weight, background weight
    (0.25, 2.0, 3.0, 1.0),
    (0.25, 0.0, 3.0, 1.0),
    (0.9, 0.5, 1.0, 1.0),
    (0.6, 1.0, 10.0, 0.5),
    (1.0, 5.0, 3.0, 0.0),
    (0.0, 2.0, 3.0, 1.0),
]


def pixels(seed=0, spread=3.0, shape=(2, 8, 8, 1)):
    """A mask with a fifth of lesion, and logits."""
    rng = np.random.default_rng(seed)
    return rng.random(shape) < 0.2, (spread * rng.standard_normal(shape)).astype(np.float32)


def equation_1(mask, logits, alpha, gamma, lesion_weight, background_weight, reading):
    """One modality's term of eq. (1), as it is printed, in float64."""
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    p_true = np.where(mask, p, 1 - p)
    class_map = np.where(mask, lesion_weight, background_weight)
    balance = np.where(mask, alpha, 1 - alpha) if reading == "balanced" else alpha
    return np.mean(-balance * (1 - p_true) ** gamma * np.log(p_true) * class_map)


def gradient(loss, mask, logits):
    logits = tf.Variable(logits)
    with tf.GradientTape() as tape:
        value = loss(mask, logits)
    return tape.gradient(value, logits).numpy().astype(np.float64)


@pytest.mark.parametrize("reading", ALPHA_READINGS)
@pytest.mark.parametrize("alpha, gamma, lesion, background", PARAMETERS)
def test_the_loss_is_equation_1(reading, alpha, gamma, lesion, background):
    settings = LossSettings(alpha, gamma, reading, lesion, background)
    for seed in range(3):
        mask, logits = pixels(seed)
        expected = equation_1(mask, logits, alpha, gamma, lesion, background, reading)
        assert float(build_loss(settings)(mask, logits)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.float32, np.float64])
def test_masks_may_have_any_dtype(dtype):
    mask, logits = pixels()
    assert float(FocalLoss()(mask.astype(dtype), logits)) == float(FocalLoss()(mask, logits))


@pytest.mark.parametrize("reading", ALPHA_READINGS)
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("lesion", [True, False])
@pytest.mark.parametrize("sure", [-40.0, -10.0, 0.0, 10.0, 40.0])
def test_value_and_gradient_hold_for_sure_logits(reading, gamma, lesion, sure):
    """With s = -z on lesion, z elsewhere: l = w sigmoid(s)^gamma softplus(s)."""
    loss = FocalLoss(0.25, gamma, reading)
    mask, logits = np.full((1, 1), lesion), np.full((1, 1), sure, np.float32)
    s = -sure if lesion else sure
    q, softplus = 1 / (1 + np.exp(-s)), np.logaddexp(0, s)
    weight = (0.25 if lesion or reading == "uniform" else 0.75) * (3 if lesion else 1)
    value = weight * q**gamma * softplus
    slope = weight * (gamma * q**gamma * (1 - q) * softplus + q**gamma * q) * (-1 if lesion else 1)
    assert float(loss(mask, logits)) == pytest.approx(value, rel=1e-5, abs=1e-30)
    assert gradient(loss, mask, logits).item() == pytest.approx(slope, rel=1e-5, abs=1e-30)


def test_gamma_0_is_weighted_cross_entropy():
    mask, logits = pixels()
    class_map = np.where(mask, 3.0, 1.0)[..., 0]
    entropy = keras.losses.BinaryCrossentropy(from_logits=True)
    expected = 0.25 * float(entropy(mask, logits, sample_weight=class_map))
    assert float(FocalLoss(gamma=0)(mask, logits)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("gamma", [0.5, 2.0, 3.0])
@pytest.mark.parametrize("reading, balancing", [("uniform", False), ("balanced", True)])
def test_without_a_class_map_it_is_keras_binary_focal_crossentropy(reading, balancing, gamma):
    mask, logits = pixels()
    keras_loss = keras.losses.BinaryFocalCrossentropy(
        apply_class_balancing=balancing, alpha=0.3, gamma=gamma, from_logits=True
    )
    # Keras leaves alpha out where it does not balance.
    ours = FocalLoss(0.3 if balancing else 1.0, gamma, reading, 1.0, 1.0)
    assert float(ours(mask, logits)) == pytest.approx(float(keras_loss(mask, logits)), rel=1e-5)


CHANGES = [{"alpha": 0.6}, {"gamma": 1.0}, {"lesion_weight": 5.0}, {"background_weight": 2.0}]


@pytest.mark.parametrize("reading", ALPHA_READINGS)
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: next(iter(change)))
def test_what_turns_the_gradient(reading, change):
    """AdamW is blind to a factor: a parameter is worth a search only if it turns the gradient."""
    mask, logits = pixels()
    before = gradient(FocalLoss(alpha_reading=reading), mask, logits)
    after = gradient(FocalLoss(alpha_reading=reading, **change), mask, logits)
    cosine = np.sum(before * after) / np.linalg.norm(before) / np.linalg.norm(after)
    assert not np.allclose(before, after)
    if reading == "uniform" and "alpha" in change:
        assert cosine == pytest.approx(1, abs=1e-9)
    else:
        assert cosine < 0.999


def test_the_class_map_is_not_normalised():
    mask, logits = pixels()
    double = FocalLoss(lesion_weight=6.0, background_weight=2.0)
    assert float(double(mask, logits)) == pytest.approx(2 * float(FocalLoss()(mask, logits)))


def test_the_heads_of_a_compiled_model_add_up_to_equation_1():
    masks, logits = zip(pixels(0), pixels(1), strict=True)
    inputs = {m: keras.Input((8, 8, 1), name=m) for m in ("adc", "dwi")}
    model = keras.Model(inputs, {m: keras.layers.Identity()(x) for m, x in inputs.items()})
    model.compile(loss={m: FocalLoss() for m in inputs}, run_eagerly=True)
    heads = dict(zip(inputs, logits, strict=True)), dict(zip(inputs, masks, strict=True))
    total = model.evaluate(*heads, verbose=0, return_dict=True)["loss"]
    terms = [
        equation_1(*pair, 0.25, 2, 3, 1, "uniform") for pair in zip(masks, logits, strict=True)
    ]
    assert total == pytest.approx(sum(terms), rel=1e-6)


def test_an_unknown_reading_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match="both.*uniform, balanced"):
        FocalLoss(alpha_reading="both")
    with pytest.raises(ValueError) as error:
        LossSettings(alpha_reading="both")
    assert str(error.value).split("known: ")[1].split(", ") == list(ALPHA_READINGS)
