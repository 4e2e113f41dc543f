"""The unimodal baseline: one encoder, one decoder, one modality (section 3, Fig. 3)."""

import keras

from strokeseg_tf.models import blocks


def build_unimodal(settings):
    """Build the unimodal network.

    Args:
        settings: `strokeseg_tf.config.ModelSettings`; its `modality` is the key of the input
            and of the output.

    Returns:
        A Keras model from `{modality: (batch, size, size, 1)}`, float32 in [0, 1], to
        `{modality: (batch, size, size, 1)}`, float32 logits.
    """
    size, modality = settings.image_size, settings.modality
    image = keras.Input((size, size, 1), name=modality)
    x, skips = blocks.apply_encoder(image, settings, name=modality)
    x = blocks.apply_block(x, settings.bottleneck, settings, name=f"{modality}_bottleneck")
    x = blocks.apply_decoder(x, skips, settings, attention=True, name=modality)
    logits = blocks.apply_head(x, settings, name=f"{modality}_logits")
    return keras.Model({modality: image}, {modality: logits}, name=f"unimodal_{modality}")
