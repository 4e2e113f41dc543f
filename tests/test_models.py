"""The networks: size, wiring, gradients, and files that need only Keras."""

import functools
import importlib.util
import itertools
import os
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf

from strokeseg_tf.config import PAPER, ModelSettings
from strokeseg_tf.losses import FocalLoss
from strokeseg_tf.models.blocks import apply_attention_gate
from strokeseg_tf.models.variants import VARIANTS, build_model, modalities_of

DUAL = [variant for variant in VARIANTS if variant.startswith("dual")]
TINY = {"image_size": 32, "filters": [4, 4, 5, 5, 6], "bottleneck": 7}


def tiny(variant, **options) -> ModelSettings:
    return PAPER.replace(model=TINY | {"variant": variant} | options).model


def randomise(model, seed=0):
    """Give every weight a value of its own, such that no ReLU is dead for every pixel."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        shape = weight.shape
        if len(shape) > 1:
            weight.assign(rng.normal(0, 0.5 / np.sqrt(np.prod(shape[:-1])), shape))
        else:
            weight.assign(weight + rng.uniform(0, 0.1, shape) + ("gate" in weight.path))
    return model


@functools.cache
def network(variant, joint_embedding=True):
    return randomise(build_model(tiny(variant, joint_embedding=joint_embedding)))


def images(model, seed=1, batch=2):
    rng = np.random.default_rng(seed)
    size = next(iter(model.input.values())).shape[1]
    return {
        m: rng.random((batch, size, size, 1), dtype=np.float32)
        for m in sorted(modalities_of(model))
    }


def outputs(model, inputs):
    return {m: np.asarray(y) for m, y in model(inputs, training=False).items()}


@pytest.mark.parametrize(
    "variant, joint_embedding, total, trainable",
    [
        ("unimodal", True, 26_131_173, 26_119_269),
        ("dual_v1", True, 57_505_226, 57_481_418),
        ("dual_v2", True, 57_505_226, None),
        ("dual_v3", True, 57_856_274, None),
        ("dual_v2", False, 52_262_346, None),
        ("dual_v3", False, 52_613_394, None),
    ],
)
def test_the_papers_networks_have_the_papers_size(variant, joint_embedding, total, trainable):
    settings = PAPER.replace(model={"variant": variant, "joint_embedding": joint_embedding}).model
    model = build_model(settings)
    counts = {
        kind: sum(int(np.prod(w.shape)) for w in getattr(model, kind))
        for kind in ("weights", "trainable_weights", "non_trainable_weights")
    }
    assert counts["weights"] == model.count_params() == total
    # What is not trained are the two running statistics of each normalised channel.
    channels = [x.moving_mean.shape[0] for x in model.layers if hasattr(x, "moving_mean")]
    assert counts["non_trainable_weights"] == 2 * sum(channels)
    if trainable is not None:
        assert counts["trainable_weights"] == trainable


def test_the_configuration_knows_the_same_variants():
    with pytest.raises(ValueError) as error:
        ModelSettings(variant="?")
    assert str(error.value).split("known: ")[1].split(", ") == list(VARIANTS)


def test_an_unknown_variant_is_answered_with_the_known_ones():
    with pytest.raises(ValueError) as error:
        build_model(SimpleNamespace(variant="dual_v9"))
    assert all(name in str(error.value) for name in ("dual_v9", *VARIANTS))


@pytest.mark.parametrize(
    "variant, joint_embedding",
    [*itertools.product(VARIANTS, [True]), ("dual_v2", False), ("dual_v3", False)],
)
def test_every_weight_receives_a_gradient_from_the_loss(variant, joint_embedding):
    model = network(variant, joint_embedding)
    loss = FocalLoss()
    with tf.GradientTape() as tape:
        # With running statistics: those of the batch would cancel the bias before them.
        logits = model(images(model), training=False)
        total = sum(loss(tf.cast(x > 0.5, tf.float32), logits[m]) for m, x in images(model).items())
    gradients = tape.gradient(total, model.trainable_weights)
    for weight, gradient in zip(model.trainable_weights, gradients, strict=True):
        assert gradient is not None and np.abs(gradient).max() > 0, weight.path


@pytest.mark.parametrize("variant", VARIANTS)
def test_outputs_have_the_keys_and_shapes_of_the_inputs_and_are_float32_logits(variant):
    model = network(variant)
    inputs = images(model)
    given = outputs(model, inputs)
    assert list(given) == list(inputs) == list(modalities_of(model))
    for modality, logits in given.items():
        assert logits.shape == inputs[modality].shape and logits.dtype == np.float32
        head = model.get_layer(f"{modality}_logits")
        assert head.activation is keras.activations.linear


@pytest.mark.parametrize("modality", ["adc", "dwi"])
def test_the_unimodal_network_takes_and_gives_its_modality(modality):
    model = build_model(tiny("unimodal", modality=modality))
    assert list(model.input) == list(model.output) == [modality] == list(modalities_of(model))


@pytest.mark.parametrize("variant", ["unimodal", "dual_v3"])
def test_logits_stay_float32_under_mixed_precision(variant):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        mixed = build_model(tiny(variant))
    finally:
        keras.config.set_dtype_policy(before)
    full = network(variant)
    mixed.set_weights(full.get_weights())
    assert {w.dtype for w in mixed.weights} == {"float32"}
    expected = outputs(full, images(full))
    for modality, logits in outputs(mixed, images(full)).items():
        assert logits.dtype == np.float32
        error = np.abs(logits - expected[modality]).mean()
        assert 0 < error < 0.1 * np.abs(expected[modality]).mean()


@pytest.mark.parametrize("variant", DUAL)
def test_a_dual_network_tells_adc_from_dwi(variant):
    model = network(variant)
    inputs = images(model)
    straight = outputs(model, inputs)
    swapped = outputs(model, {"adc": inputs["dwi"], "dwi": inputs["adc"]})
    assert np.abs(straight["adc"] - swapped["adc"]).max() > 1e-3
    assert np.abs(straight["adc"] - swapped["dwi"]).max() > 1e-3


@pytest.mark.parametrize(
    "variant, joint_embedding, crosses",
    [
        ("dual_v1", False, False),
        ("dual_v2", False, True),
        ("dual_v3", False, True),
        ("dual_v1", True, True),
        ("dual_v2", True, True),
        ("dual_v3", True, True),
    ],
)
def test_modalities_meet_in_the_joint_embedding_and_in_the_encoder_gates_only(
    variant, joint_embedding, crosses
):
    model = network(variant, joint_embedding)
    inputs = images(model)
    for changed, other in itertools.permutations(("adc", "dwi")):
        disturbed = outputs(model, inputs | {changed: 1 - inputs[changed]})
        expected = outputs(model, inputs)
        assert not np.array_equal(disturbed[changed], expected[changed])
        assert np.array_equal(disturbed[other], expected[other]) is not crosses


@pytest.mark.parametrize(
    "variant, gate, driven_by_decoder, driven_by_other_modality",
    [
        ("unimodal", "adc_decoder0_gate", True, None),
        ("dual_v1", "adc_decoder0_gate", True, False),
        ("dual_v2", "adc_encoder0_gate", False, True),
        ("dual_v3", "adc_encoder0_gate", False, True),
        ("dual_v3", "adc_decoder0_gate", True, True),
    ],
)
def test_what_drives_a_gate(variant, gate, driven_by_decoder, driven_by_other_modality):
    model = network(variant, joint_embedding=False)
    attention = keras.Model(model.input, model.get_layer(f"{gate}_weights").output)
    inputs = images(model)
    before = np.asarray(attention(inputs))
    if driven_by_other_modality is not None:
        after = np.asarray(attention(inputs | {"dwi": 1 - inputs["dwi"]}))
        assert np.array_equal(before, after) is not driven_by_other_modality
    bias = model.get_layer("adc_bottleneck_unit2_bn").beta
    value = np.array(bias)
    bias.assign(value + 1)
    after = np.asarray(attention(inputs))
    bias.assign(value)
    assert np.array_equal(before, after) is not driven_by_decoder


@pytest.mark.parametrize("variant", VARIANTS)
def test_each_skip_has_the_gates_of_its_variant(variant):
    names = {layer.name for layer in network(variant).layers}
    gates = sorted(name for name in names if name.endswith("gate_weights"))
    places = {"unimodal": ["decoder"], "dual_v1": ["decoder"], "dual_v2": ["encoder"]}
    assert gates == sorted(
        f"{modality}_{place}{level}_gate_weights"
        for modality in modalities_of(network(variant))
        for place in places.get(variant, ["encoder", "decoder"])
        for level in range(4)
    )


def test_the_attention_gate_equals_the_equation():
    features, gating = keras.Input((4, 4, 3)), keras.Input((4, 4, 5))
    refined = apply_attention_gate(features, gating, name="gate")
    model = randomise(keras.Model([features, gating], refined))
    rng = np.random.default_rng(0)
    x_e, x_d = (rng.standard_normal((2, 4, 4, c)).astype(np.float32) for c in (3, 5))

    def dense(x, layer):  # W^T x + b, a 1x1 convolution
        kernel, bias = model.get_layer(f"gate_{layer}").get_weights()
        return x.astype(np.float64) @ kernel[0, 0] + bias

    hidden = np.maximum(dense(x_e, "features") + dense(x_d, "gating"), 0)
    expected = x_e / (1 + np.exp(-dense(hidden, "weights")))
    np.testing.assert_allclose(np.asarray(model([x_e, x_d])), expected, atol=1e-6)


def test_dropout_acts_in_training_only():
    model = build_model(tiny("unimodal", dropout=0.5))
    model.set_weights(network("unimodal").get_weights())
    inputs = images(model)
    expected = outputs(network("unimodal"), inputs)
    np.testing.assert_array_equal(outputs(model, inputs)["adc"], expected["adc"])
    rates = [layer.rate for layer in model.layers if isinstance(layer, keras.layers.Dropout)]
    assert rates == [0.5] * 14  # Encoder, embedding and decoder have 5, 1 and 8 blocks.
    first, second = (np.asarray(model(inputs, training=True)["adc"]) for _ in range(2))
    assert not np.allclose(first, second)


def test_pooling_is_an_option():
    model = build_model(tiny("unimodal", pooling="max"))
    model.set_weights(network("unimodal").get_weights())
    inputs = images(model)
    assert not np.allclose(
        outputs(model, inputs)["adc"], outputs(network("unimodal"), inputs)["adc"]
    )


@pytest.mark.parametrize("levels", [1, 3])
def test_depth_and_width_are_options(levels):
    settings = tiny("dual_v3", filters=[2, 3, 4][:levels], bottleneck=7, image_size=12)
    model = build_model(settings)
    assert {m: y.shape for m, y in model.output.items()} == dict.fromkeys(
        ("adc", "dwi"), (None, 12, 12, 1)
    )
    embedding = model.get_layer("joint_embedding").output
    assert embedding.shape == (None, 12 // 2 ** (levels - 1), 12 // 2 ** (levels - 1), 14)


def test_the_momentum_of_the_normalisation_is_an_option():
    model = build_model(tiny("unimodal", norm_momentum=0.5))
    momenta = {layer.momentum for layer in model.layers if hasattr(layer, "momentum")}
    assert momenta == {0.5}


def test_the_prior_is_what_a_head_without_evidence_gives():
    head = build_model(tiny("unimodal", prior=0.01)).get_layer("adc_logits")
    nothing = np.zeros((1, 2, 2, head.kernel.shape[2]), np.float32)
    np.testing.assert_allclose(keras.ops.sigmoid(head(nothing)), 0.01, rtol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_only_stock_layers(variant):
    for layer in network(variant).layers:
        assert type(layer).__module__.startswith("keras.")
        assert not isinstance(layer, keras.layers.Lambda)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The variants as files, with an input and the output of each."""
    folder = tmp_path_factory.mktemp("models")
    for variant in VARIANTS:
        model = network(variant)
        model.save(folder / f"{variant}.keras")
        inputs = images(model)
        expected = {f"out_{m}": y for m, y in outputs(model, inputs).items()}
        np.savez(folder / f"{variant}.npz", **{f"in_{m}": x for m, x in inputs.items()}, **expected)
    return folder


LOAD_WITH_KERAS_ALONE = """
    import sys
    from pathlib import Path
    import keras
    import numpy as np

    folder, tolerance = Path(sys.argv[1]), float(sys.argv[2])
    files = sorted(folder.glob("*.keras"))
    for file in files:
        model = keras.saving.load_model(file, compile=False, safe_mode=True)
        arrays = np.load(file.with_suffix(".npz"))
        logits = model({m: arrays[f"in_{m}"] for m in model.input}, training=False)
        for m in logits:
            given = keras.ops.convert_to_numpy(logits[m])
            np.testing.assert_allclose(given, arrays[f"out_{m}"], atol=tolerance, rtol=tolerance)
    assert not {"strokeseg_tf", "tfrecord_tools", "tuning"} & set(sys.modules)
    print(len(files), keras.backend.backend())
"""

TRAIN_A_STEP = """
    import keras
    import numpy as np
    from strokeseg_tf.config import PAPER
    from strokeseg_tf.losses import build_loss
    from strokeseg_tf.metrics import build_metrics
    from strokeseg_tf.models.variants import build_model
    from strokeseg_tf.engine.optimiser import build_optimiser

    config = PAPER.replace(
        model={"image_size": 32, "filters": [2, 3, 4, 4, 5], "bottleneck": 6},
        optimiser={"warmup_share": 0.0, "clipnorm": 1.0, "ema_momentum": 0.9},
    )
    keras.utils.set_random_seed(0)
    model = build_model(config.model)
    model.compile(
        optimizer=build_optimiser(config.optimiser, total_steps=10),
        loss={m: build_loss(config.loss) for m in model.output},
        metrics={m: build_metrics(0.5) for m in model.output},
    )
    rng = np.random.default_rng(0)
    x = {m: rng.random((4, 32, 32, 1), dtype="float32") for m in ("adc", "dwi")}
    y = {m: (pixels > 0.7).astype("float32") for m, pixels in x.items()}
    logs = model.fit(x, y, epochs=2, verbose=0).history
    assert all(np.isfinite(v).all() for v in logs.values())
    assert logs["loss"][1] < logs["loss"][0]
    assert {"adc_dice", "dwi_sensitivity"} <= set(logs)
    kernel = keras.ops.convert_to_numpy(model.trainable_weights[0])
    model.optimizer.swap_average()
    average = keras.ops.convert_to_numpy(model.trainable_weights[0])
    assert 0 < np.abs(average - kernel).max() < 0.1 * np.abs(kernel).max()
    print("trained on", keras.backend.backend())
"""


FIT_IS_REFUSED = """
    from strokeseg_tf.config import SMALL
    from strokeseg_tf.training import fit
    from tfrecord_tools.errors import InputError

    try:
        fit("no shards", "no run", SMALL)
    except InputError as error:
        print(error)
"""


def run_python(script, *arguments, backend):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)],
        env=os.environ | {"KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.slow
def test_saved_models_load_with_keras_alone_and_equal_those_in_memory(saved):
    result = run_python(LOAD_WITH_KERAS_ALONE, saved, 1e-6, backend="tensorflow")
    assert result.stdout.split() == [str(len(VARIANTS)), "tensorflow"], result.stderr


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_models_losses_metrics_and_optimiser_run_on_another_backend(backend, saved):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    result = run_python(LOAD_WITH_KERAS_ALONE, saved, 1e-3, backend=backend)
    assert result.stdout.split() == [str(len(VARIANTS)), backend], result.stderr
    result = run_python(TRAIN_A_STEP, backend=backend)
    assert result.stdout.strip() == f"trained on {backend}", result.stderr
    result = run_python(FIT_IS_REFUSED, backend=backend)
    assert f"KERAS_BACKEND is {backend}" in result.stdout, result.stderr
