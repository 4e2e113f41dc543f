"""AdamW on one flat vector, and the paper's learning-rate schedule.

Keras updates each of the network's hundreds of weight tensors with its own dozen operations; on
a CPU that makes tracing the training step slower than running it a hundred times. Here all
weights live in one vector while they are updated, and the arithmetic is that of
`keras.optimizers.AdamW`.
"""

import math

import keras
import numpy as np
from keras import ops


class FlatAdamW(keras.optimizers.Optimizer):
    """AdamW (Loshchilov and Hutter, 2019) whose state is one vector over all weights.

    With g the gradient, m and v its running first and second moments, t the step:

        theta <- theta - s theta - lr c m / (sqrt(v) + epsilon)

    where c = sqrt(1 - beta_2^t) / (1 - beta_1^t) corrects the bias of both moments, and
    s = weight_decay * lr, or weight_decay alone if `decay_scaled_by_lr` is false (the convention
    of TensorFlow Addons, which the authors' code used).

    Args:
        learning_rate: Float or Keras schedule.
        weight_decay: Decoupled decay, >= 0.
        decay_scaled_by_lr: See above.
        clipnorm: Largest L2 norm of each weight tensor's gradient, or None.
        ema_momentum: Momentum of a running average of the weights in [0, 1), or None for none.
    """

    def __init__(
        self,
        learning_rate=1e-3,
        weight_decay=0.0,
        *,
        decay_scaled_by_lr=True,
        clipnorm=None,
        ema_momentum=None,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-7,
        name="flat_adamw",
    ):
        super().__init__(learning_rate, name=name)
        self._decay = weight_decay
        self._decay_scaled_by_lr = decay_scaled_by_lr
        self._clipnorm = clipnorm
        self._average_momentum = ema_momentum
        self._betas = (beta_1, beta_2)
        self._epsilon = epsilon

    def build(self, variables):
        """Create the state for `variables`, whose order `apply` keeps to."""
        if self.built:
            return
        super().build(variables)
        sizes = [math.prod(v.shape) for v in variables]
        size = sum(sizes)
        if self._clipnorm is not None:
            # The number of the tensor that each weight belongs to.
            self._owners = _constant(np.repeat(np.arange(len(sizes), dtype="int32"), sizes))
        self._first = self.add_variable((size,), name="first_moment", dtype="float32")
        self._second = self.add_variable((size,), name="second_moment", dtype="float32")
        if self._average_momentum is not None:
            # As its initial value: Keras may build inside a graph, where an assignment is lost.
            self._average = self.add_variable(
                (size,), lambda *_, **__: _flatten(variables), name="average", dtype="float32"
            )

    def apply(self, grads, trainable_variables=None):
        """One step; a missing gradient (None) counts as zero.

        Raises:
            ValueError: These are not the weights, in their order, of the first step.
        """
        variables = list(trainable_variables or self._trainable_variables)
        self.build(variables)
        if list(map(id, variables)) != list(map(id, self._trainable_variables)):
            raise ValueError(
                f"the optimiser was built for other weights: {len(self._trainable_variables)} "
                f"tensors then, {len(variables)} now; make a new one where layers are frozen"
            )
        grads = [
            ops.zeros(v.shape) if g is None else g for g, v in zip(grads, variables, strict=True)
        ]
        gradient = self._over_replicas(_flatten([ops.cast(g, "float32") for g in grads]))
        weights = _flatten(variables)
        weights = weights - self._update(self._clip(gradient), weights)
        for variable, value in zip(variables, _unflatten(weights, variables), strict=True):
            variable.assign(ops.cast(value, variable.dtype))
        if self._average_momentum is not None:
            momentum = self._average_momentum
            self._average.assign(momentum * self._average + (1 - momentum) * weights)
        self._iterations.assign_add(1)

    def _over_replicas(self, gradient):
        """The sum over the replicas, where TensorFlow trains under a distribution strategy."""
        reduce = getattr(self, "_all_reduce_sum_gradients", None)
        return gradient if reduce is None else reduce([(gradient, None)])[0][0]

    def _clip(self, gradient):
        """Scale each tensor's part to be no longer than `clipnorm`."""
        if self._clipnorm is None:
            return gradient
        owners = self._owners
        squares = ops.segment_sum(
            ops.square(gradient), owners, num_segments=len(self._trainable_variables)
        )
        scales = ops.minimum(1.0, self._clipnorm / ops.maximum(ops.sqrt(squares), 1e-12))
        return gradient * ops.take(scales, owners)

    def _update(self, gradient, weights):
        rate = ops.cast(self.learning_rate, "float32")
        step = ops.cast(self._iterations + 1, "float32")
        beta_1, beta_2 = self._betas
        first = beta_1 * self._first + (1 - beta_1) * gradient
        second = beta_2 * self._second + (1 - beta_2) * ops.square(gradient)
        self._first.assign(first)
        self._second.assign(second)
        correction = ops.sqrt(1 - ops.power(beta_2, step)) / (1 - ops.power(beta_1, step))
        update = rate * correction * first / (ops.sqrt(second) + self._epsilon)
        return update + self._decay * (rate if self._decay_scaled_by_lr else 1.0) * weights

    @property
    def averages_weights(self):
        """Whether a running average of the weights is kept."""
        return self._average_momentum is not None

    def swap_average(self):
        """Exchange the weights and their running average (call twice to come back)."""
        variables = self._trainable_variables
        current = _flatten(variables)
        for variable, value in zip(variables, _unflatten(self._average, variables), strict=True):
            variable.assign(value)
        self._average.assign(current)


def _constant(values):
    """A tensor outside of any graph that is being traced, where it would be a copy in the graph."""
    if keras.backend.backend() != "tensorflow":
        return ops.convert_to_tensor(values)
    import tensorflow as tf

    with tf.init_scope():
        return tf.constant(values)


# Tracing costs by the operation, and most weight tensors are vectors as they are.


def _flatten(tensors):
    return ops.concatenate([t if len(t.shape) == 1 else ops.reshape(t, (-1,)) for t in tensors])


def _split(vector, like):
    """The parts of a vector, each as long as the tensor it belongs to."""
    ends = [0]
    for tensor in like:
        ends.append(ends[-1] + math.prod(tensor.shape))
    vector = ops.convert_to_tensor(vector)
    # Keras cannot split at no place.
    return ops.split(vector, ends[1:-1]) if len(like) > 1 else [vector]


def _unflatten(vector, like):
    parts = zip(_split(vector, like), like, strict=True)
    return [part if len(t.shape) == 1 else ops.reshape(part, t.shape) for part, t in parts]


class WarmUpCosine(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up from 0 to `peak`, then cosine decay to 0 (section 2.3).

    Args:
        peak: Learning rate at the end of the warm-up.
        total_steps: Optimiser steps of the whole training: a number, or a Keras variable that is
            assigned before the first step.
        warmup_share: Share of the steps that warm up, in [0, 1): 90 of 300 epochs in the paper.
    """

    def __init__(self, peak, total_steps, warmup_share):
        self._peak, self._total_steps, self._warmup_share = peak, total_steps, warmup_share

    def __call__(self, step):
        step, total = (ops.cast(x, "float32") for x in (step, self._total_steps))
        warmup = ops.round(total * self._warmup_share)
        decayed = ops.clip((step - warmup) / ops.maximum(1.0, total - warmup), 0.0, 1.0)
        rising = step / ops.maximum(1.0, warmup)
        return self._peak * ops.where(step < warmup, rising, (1.0 + ops.cos(math.pi * decayed)) / 2)


def build_optimiser(settings, total_steps):
    """The optimiser that `strokeseg_tf.config.OptimiserSettings` describes."""
    return FlatAdamW(
        WarmUpCosine(settings.learning_rate, total_steps, settings.warmup_share),
        weight_decay=settings.weight_decay,
        decay_scaled_by_lr=settings.decay_scaled_by_lr,
        epsilon=settings.epsilon,
        clipnorm=settings.clipnorm,
        ema_momentum=settings.ema_momentum,
    )
