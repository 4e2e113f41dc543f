"""AdamW on flat vectors, and the paper's learning-rate schedule.

Keras updates each of the network's hundreds of weight tensors with its own dozen operations; on
a CPU that makes tracing the training step slower than running it a hundred times. Here weights
live in one vector while they are updated, in several where they are many, and the arithmetic is
that of `keras.optimizers.AdamW`.
"""

import math

import keras
import numpy as np
from keras import ops


class FlatAdamW(keras.optimizers.Optimizer):
    """AdamW (Loshchilov and Hutter, 2019) whose state is a few long vectors over all weights.

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
        self._vectors = [
            _Vector(self.add_variable, part, self._clipnorm, self._average_momentum)
            for part in _parts(variables)
        ]

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
        rate = ops.cast(self.learning_rate, "float32")
        decay = self._decay * (rate if self._decay_scaled_by_lr else 1.0)
        step = ops.cast(self._iterations + 1, "float32")
        for vector in self._vectors:
            own, grads = grads[: len(vector.variables)], grads[len(vector.variables) :]
            gradient = self._over_replicas(_flatten([ops.cast(g, "float32") for g in own]))
            vector.update(gradient, rate, decay, step, *self._betas, self._epsilon)
        self._iterations.assign_add(1)

    def _over_replicas(self, gradient):
        """The sum over the replicas, where TensorFlow trains under a distribution strategy."""
        reduce = getattr(self, "_all_reduce_sum_gradients", None)
        return gradient if reduce is None else reduce([(gradient, None)])[0][0]

    @property
    def averages_weights(self):
        """Whether a running average of the weights is kept."""
        return self._average_momentum is not None

    def swap_average(self):
        """Exchange the weights and their running average (call twice to come back)."""
        for vector in self._vectors:
            vector.swap_average()


#: Weights from which on a network is updated in several vectors: side by side, and each closer to
#: the processor's caches.
VECTOR_SIZE = 4_000_000


def _parts(variables):
    """The variables in their order, in parts of at least `VECTOR_SIZE` weights but for the last."""
    parts, size = [[]], 0
    for variable in variables:
        if size >= VECTOR_SIZE:
            parts.append([])
            size = 0
        parts[-1].append(variable)
        size += math.prod(variable.shape)
    return parts


class _Vector:
    """Weight tensors that are updated as one vector, and its state.

    Args:
        add_variable: Of the optimiser.
        variables: Their weights.
        clipnorm: See `FlatAdamW`.
        average_momentum: See `FlatAdamW`.
    """

    def __init__(self, add_variable, variables, clipnorm, average_momentum):
        self.variables = variables
        self._clipnorm, self._average_momentum = clipnorm, average_momentum
        sizes = [math.prod(v.shape) for v in variables]
        size = sum(sizes)
        if clipnorm is not None:
            # The number of the tensor that each weight belongs to.
            self._owners = _constant(np.repeat(np.arange(len(sizes), dtype="int32"), sizes))
        self._first = add_variable((size,), name="first_moment", dtype="float32")
        self._second = add_variable((size,), name="second_moment", dtype="float32")
        self._scratch = _scratch(size)
        if average_momentum is not None:
            # As its initial value: Keras may build inside a graph, where an assignment is lost.
            self._average = add_variable(
                (size,), lambda *_, **__: _flatten(variables), name="average", dtype="float32"
            )

    def update(self, gradient, *rates):
        """One step of AdamW; see `_updated` for the rates."""
        updated = self._updated if self._scratch is None else self._updated_by_kernel
        weights = updated(self._clipped(gradient), *rates)
        self._assign(weights)
        if self._average_momentum is not None:
            momentum = self._average_momentum
            self._average.assign(momentum * self._average + (1 - momentum) * weights)

    def swap_average(self):
        """Exchange the weights and their running average."""
        current = _flatten(self.variables)
        self._assign(self._average)
        self._average.assign(current)

    def _assign(self, vector):
        for variable, value in zip(self.variables, _unflatten(vector, self.variables), strict=True):
            variable.assign(ops.cast(value, variable.dtype))

    def _clipped(self, gradient):
        """Each tensor's part scaled to be no longer than `clipnorm`."""
        if self._clipnorm is None:
            return gradient
        owners = self._owners
        squares = ops.segment_sum(ops.square(gradient), owners, num_segments=len(self.variables))
        scales = ops.minimum(1.0, self._clipnorm / ops.maximum(ops.sqrt(squares), 1e-12))
        return gradient * ops.take(scales, owners)

    def _updated(self, gradient, rate, decay, step, beta_1, beta_2, epsilon):
        """The weights after a step; the moments are kept.

        Args:
            gradient: Vector over all weights.
            rate: Learning rate.
            decay: Share of themselves that the weights lose.
            step: Number of the step, from 1.
            beta_1: Momentum of the first moment.
            beta_2: Momentum of the second moment.
            epsilon: Added to the root of the second moment.
        """
        first = beta_1 * self._first + (1 - beta_1) * gradient
        second = beta_2 * self._second + (1 - beta_2) * ops.square(gradient)
        self._first.assign(first)
        self._second.assign(second)
        correction = ops.sqrt(1 - ops.power(beta_2, step)) / (1 - ops.power(beta_1, step))
        weights = _flatten(self.variables) * (1 - decay)
        return weights - rate * correction * first / (ops.sqrt(second) + epsilon)

    def _updated_by_kernel(self, gradient, rate, decay, step, beta_1, beta_2, epsilon):
        """As `_updated`, by a kernel of TensorFlow that goes over all numbers once."""
        import tensorflow as tf

        self._scratch.assign(_flatten(self.variables) * (1 - decay))
        tf.raw_ops.ResourceApplyAdam(
            var=self._scratch.handle,
            m=self._first.value.handle,
            v=self._second.value.handle,
            beta1_power=tf.pow(beta_1, step),
            beta2_power=tf.pow(beta_2, step),
            lr=rate,
            beta1=beta_1,
            beta2=beta_2,
            epsilon=epsilon,
            grad=gradient,
        )
        return tf.convert_to_tensor(self._scratch)


def _scratch(size):
    """A place for weights while TensorFlow's kernel updates them; None on another backend."""
    if keras.backend.backend() != "tensorflow":
        return None
    import tensorflow as tf

    with tf.init_scope():
        return tf.Variable(tf.zeros(size), trainable=False)


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
