"""The recipe of section 2.3 put on a network: optimiser, loss and metrics."""

import keras

from strokeseg_tf.config import Config
from strokeseg_tf.engine.optimiser import build_optimiser
from strokeseg_tf.losses import build_loss
from strokeseg_tf.metrics import build_metrics


def compile_trainer(trainer, config: Config, total_steps):
    """Compile a model with the recipe of `config`, ready for its first step.

    Args:
        trainer: Functional model.
        config: All settings.
        total_steps: See `strokeseg_tf.engine.optimiser.WarmUpCosine`.
    """
    heads = list(trainer.output)
    # Keras prefixes the names of metrics with the head's where there are several heads.
    prefix = f"{heads[0]}_" if len(heads) == 1 else ""
    trainer.compile(
        optimizer=build_optimiser(config.optimiser, total_steps),
        loss={m: build_loss(config.loss) for m in heads},
        metrics={m: build_metrics(config.training.metric_threshold, prefix) for m in heads},
        # XLA was measured slower than plain TensorFlow on CPUs, to compile and to run.
        jit_compile=False,
    )
    _build_state(trainer)


def _build_state(trainer):
    """Make all variables now: made inside the first step they would have it traced twice."""
    trainer.optimizer.build(trainer.trainable_variables)
    nothing = {m: keras.ops.zeros((1, *y.shape[1:])) for m, y in trainer.output.items()}
    trainer.compute_loss(y=nothing, y_pred=nothing)
    trainer.compute_metrics(None, nothing, nothing)
    trainer.reset_metrics()
