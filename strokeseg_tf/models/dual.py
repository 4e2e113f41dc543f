"""The dual networks: two encoders, a joint embedding, two decoders (section 2, Figs. 1 and 3)."""

import keras
from keras import layers

from strokeseg_tf.models import blocks

MODALITIES = ("adc", "dwi")


def build_dual(settings, *, encoder_attention, decoder_attention, name):
    """Build a dual network; V1, V2 and V3 differ in where attention stands.

    Args:
        settings: `strokeseg_tf.config.ModelSettings`. With `joint_embedding` each decoder starts
            from both bottleneck embeddings concatenated (the paper's text), else from its own
            modality's (the authors' code for V2 and V3).
        encoder_attention: Each skip is gated by the other modality's skip of the same level.
        decoder_attention: Each skip is gated by the decoder's features of the same level.
        name: Name of the model.

    Returns:
        A Keras model from `{"adc", "dwi"}: (batch, size, size, 1)`, float32 in [0, 1], to the
        same keys and shapes, float32 logits.
    """
    size = settings.image_size
    images = {m: keras.Input((size, size, 1), name=m) for m in MODALITIES}
    embeddings, skips, logits = {}, {}, {}
    for m in MODALITIES:
        x, skips[m] = blocks.apply_encoder(images[m], settings, name=m)
        embeddings[m] = blocks.apply_block(x, settings.bottleneck, settings, name=f"{m}_bottleneck")
    if encoder_attention:
        skips = apply_encoder_attention(skips)
    if settings.joint_embedding:
        joint = layers.Concatenate(name="joint_embedding")([embeddings[m] for m in MODALITIES])
        embeddings = dict.fromkeys(MODALITIES, joint)
    for m in MODALITIES:
        x = blocks.apply_decoder(
            embeddings[m], skips[m], settings, attention=decoder_attention, name=m
        )
        logits[m] = blocks.apply_head(x, settings, name=f"{m}_logits")
    return keras.Model(images, logits, name=name)


def apply_encoder_attention(skips):
    """Gate each modality's skips by the other's, level by level (Dual V2 and V3)."""
    return {
        own: [
            blocks.apply_attention_gate(mine, theirs, name=f"{own}_encoder{level}_gate")
            for level, (mine, theirs) in enumerate(zip(skips[own], skips[other], strict=True))
        ]
        for own, other in zip(MODALITIES, reversed(MODALITIES), strict=True)
    }
