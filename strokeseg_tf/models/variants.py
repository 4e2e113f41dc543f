"""The variants by name: one builder each, one line each in `VARIANTS`."""

import functools

from strokeseg_tf.models.dual import MODALITIES, build_dual
from strokeseg_tf.models.unimodal import build_unimodal


def _dual(name, encoder_attention, decoder_attention):
    return functools.partial(
        build_dual,
        encoder_attention=encoder_attention,
        decoder_attention=decoder_attention,
        name=name,
    )


#: Builder of each variant: `settings -> keras.Model`.
VARIANTS = {
    "unimodal": build_unimodal,
    "dual_v1": _dual("dual_v1", encoder_attention=False, decoder_attention=True),
    "dual_v2": _dual("dual_v2", encoder_attention=True, decoder_attention=False),
    "dual_v3": _dual("dual_v3", encoder_attention=True, decoder_attention=True),
}


def build_model(settings):
    """Build the network that `settings.variant` names.

    Args:
        settings: `strokeseg_tf.config.ModelSettings`.

    Returns:
        A Keras functional model; inputs and outputs are dictionaries keyed by modality.

    Raises:
        ValueError: The variant is unknown.
    """
    if settings.variant not in VARIANTS:
        raise ValueError(
            f"unknown variant {settings.variant!r}; known variants: {', '.join(VARIANTS)}"
        )
    return VARIANTS[settings.variant](settings)


def modalities_of(model):
    """The modalities a model takes and gives, in a fixed order."""
    return tuple(m for m in MODALITIES if m in model.input)
