"""The multi-segmentation loss, eq. (1), on logits."""

import keras
from keras import ops


class FocalLoss(keras.losses.Loss):
    """Focal loss with a class weight map (section 2.2); one modality's term of eq. (1).

    With z a logit, p = sigmoid(z), y in {0, 1} the mask and p_t = p where y = 1, 1 - p elsewhere:

        L = mean over pixels of  -a_t (1 - p_t)^gamma log(p_t) C

    C is `lesion_weight` where y = 1 and `background_weight` elsewhere; it is not normalised. Eq.
    (1) is the sum of this loss over both modalities, which is what Keras does with two outputs.

    Args:
        alpha: Weight balancing factor in [0, 1].
        gamma: Focusing parameter, >= 0; at 0 the loss is weighted cross-entropy.
        alpha_reading: `uniform`: a_t = alpha everywhere, as eq. (1) is printed (a constant
            factor, to which AdamW is blind); `balanced`: a_t = alpha where y = 1 and 1 - alpha
            elsewhere (Lin et al., "Focal loss for dense object detection", 2017).
        lesion_weight: C on lesion, >= 0.
        background_weight: C elsewhere, >= 0.

    Call arguments:
        y_true: Masks `(batch, height, width, 1)` of any dtype, 0 or 1.
        y_pred: Logits of the same shape, float32.
    """

    def __init__(
        self,
        alpha=0.25,
        gamma=2.0,
        alpha_reading="uniform",
        lesion_weight=3.0,
        background_weight=1.0,
        name="focal_loss",
    ):
        if alpha_reading not in ALPHA_READINGS:
            raise ValueError(
                f"unknown alpha reading {alpha_reading!r}; known: {', '.join(ALPHA_READINGS)}"
            )
        super().__init__(name=name)
        alphas = ALPHA_READINGS[alpha_reading](alpha)
        self._gamma = gamma
        self._lesion = alphas[0] * lesion_weight
        self._background = alphas[1] * background_weight

    def call(self, y_true, y_pred):
        logits = ops.cast(y_pred, "float32")
        lesion = ops.cast(y_true, "bool")
        signed = ops.where(lesion, logits, -logits)  # p_t = sigmoid(signed)
        surprise = ops.softplus(-signed)  # -log(p_t)
        focus = ops.exp(-self._gamma * ops.softplus(signed))  # (1 - p_t)^gamma
        weights = ops.where(lesion, self._lesion, self._background)
        return ops.mean(weights * focus * surprise, axis=-1)


#: (alpha on lesion, alpha on background) by reading of eq. (1).
ALPHA_READINGS = {
    "uniform": lambda alpha: (alpha, alpha),
    "balanced": lambda alpha: (alpha, 1 - alpha),
}


def build_loss(settings):
    """The loss that `strokeseg_tf.config.LossSettings` describes."""
    return FocalLoss(
        alpha=settings.alpha,
        gamma=settings.gamma,
        alpha_reading=settings.alpha_reading,
        lesion_weight=settings.lesion_weight,
        background_weight=settings.background_weight,
    )
