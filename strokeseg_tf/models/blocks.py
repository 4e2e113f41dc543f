"""Building blocks of the networks: convolution units, residual blocks, attention gates, levels.

Every function extends a functional graph (`apply_*`) with stock Keras layers only, so a saved
model loads without custom objects, on every Keras backend. Feature maps are
`(batch, height, width, channels)`; `settings` is a `strokeseg_tf.config.ModelSettings`.
"""

import math

from keras import initializers, layers


def apply_unit(x, filters, settings, *, name):
    """3x3 convolution, batch normalisation, ReLU, then the sum with a shortcut.

    The shortcut is the identity, or a 1x1 convolution where the number of channels changes
    (the paper's "residual convolutional block", section 2.3).
    """
    shortcut = x
    if x.shape[-1] != filters:
        shortcut = layers.Conv2D(filters, 1, name=f"{name}_shortcut")(x)
    x = layers.Conv2D(filters, 3, padding="same", name=f"{name}_conv")(x)
    x = layers.BatchNormalization(momentum=settings.norm_momentum, name=f"{name}_bn")(x)
    x = layers.ReLU(name=f"{name}_relu")(x)
    return layers.Add(name=f"{name}_add")([x, shortcut])


def apply_block(x, filters, settings, *, name):
    """Two units, then dropout where its rate is above 0."""
    x = apply_unit(x, filters, settings, name=f"{name}_unit1")
    x = apply_unit(x, filters, settings, name=f"{name}_unit2")
    if settings.dropout:
        x = layers.Dropout(settings.dropout, name=f"{name}_dropout")(x)
    return x


def apply_attention_gate(features, gating, *, name):
    """Refine `features` by what `gating` finds worth keeping (section 2.1).

    X_re = sigmoid(W_re^T ReLU(W_e^T X_e + W_d^T X_d)) * X_e, where X_e is `features`, X_d is
    `gating` and the W are 1x1 convolutions with biases; W_re has one output channel.
    Both inputs have the same height and width; the result has the shape of `features`.
    """
    filters = features.shape[-1]
    keys = layers.Conv2D(filters, 1, name=f"{name}_features")(features)
    queries = layers.Conv2D(filters, 1, name=f"{name}_gating")(gating)
    joint = layers.ReLU(name=f"{name}_relu")(layers.Add(name=f"{name}_add")([keys, queries]))
    weights = layers.Conv2D(1, 1, activation="sigmoid", name=f"{name}_weights")(joint)
    return layers.Multiply(name=f"{name}_refined")([features, weights])


def apply_encoder(x, settings, *, name):
    """Contracting path: a block a level, pooling by 2 between levels.

    Args:
        x: Image tensor `(batch, height, width, 1)`.
        settings: `strokeseg_tf.config.ModelSettings`. The last level is not pooled: the
            bottleneck works at its resolution, 14 x 14 for an input of 224.
        name: Prefix of the layer names.

    Returns:
        `(features, skips)`: the last level's features and the skips of the levels above it,
        outermost first.
    """
    pool = {"average": layers.AveragePooling2D, "max": layers.MaxPooling2D}[settings.pooling]
    skips = []
    for level, width in enumerate(settings.filters):
        x = apply_block(x, width, settings, name=f"{name}_encoder{level}")
        if level < len(settings.filters) - 1:
            skips.append(x)
            x = pool(2, name=f"{name}_pool{level}")(x)
    return x, skips


def apply_decoder(x, skips, settings, *, attention, name):
    """Expanding path: upsample, block, gate the skip, concatenate, block; a level for each skip.

    Args:
        x: The embedding `(batch, height / 2^n, width / 2^n, channels)` of n skips.
        skips: Encoder features, outermost first.
        settings: See above.
        attention: Whether each skip passes an attention gate driven by the decoder's features.
        name: Prefix of the layer names.
    """
    for level in reversed(range(len(skips))):
        skip = skips[level]
        prefix = f"{name}_decoder{level}"
        x = layers.UpSampling2D(2, interpolation="nearest", name=f"{prefix}_upsample")(x)
        x = apply_block(x, skip.shape[-1], settings, name=f"{prefix}_in")
        if attention:
            skip = apply_attention_gate(skip, x, name=f"{prefix}_gate")
        x = layers.Concatenate(name=f"{prefix}_concatenate")([skip, x])
        x = apply_block(x, skip.shape[-1], settings, name=f"{prefix}_out")
    return x


def apply_head(x, settings, *, name):
    """1x1 convolution to one logit a pixel, in float32 whatever the precision policy."""
    bias = initializers.Constant(math.log(settings.prior / (1 - settings.prior)))
    return layers.Conv2D(1, 1, bias_initializer=bias, dtype="float32", name=name)(x)
