"""The training loop: one traced step, epochs of it, and Keras's callbacks around them.

Keras 3's own `fit` cannot train under `MultiWorkerMirroredStrategy` (keras #20585), and it traces
its step from the first batch: here that is done while the data are still being read.
"""

import keras
import tensorflow as tf


def build_step(trainer, strategy=None, batch_spec=None):
    """A function: a batch -> `{metric: value since the epoch began}`, over all devices.

    Args:
        trainer: Compiled model, made in the strategy's scope.
        strategy: Of `strokeseg_tf.engine.distribution.build_strategy`.
        batch_spec: The batches' `tf.TypeSpec`; with it the step of a single device is traced now,
            else by the first batch, as where a batch turns out to be different.
    """

    @tf.function(autograph=False)
    def step(batch):
        if strategy is None:
            return trainer.train_step(batch)
        strategy.run(trainer.train_step, args=(batch,))
        return trainer.get_metrics_result()

    if strategy is None and batch_spec is not None:
        step.get_concrete_function(batch_spec)
    return step


def run_epochs(trainer, step, batches, *, steps, epochs, initial_epoch=0, callbacks=()):
    """Train.

    Args:
        trainer: See `build_step`.
        step: Of `build_step`.
        batches: Iterable of what `step` takes.
        steps: Steps an epoch.
        epochs: Epochs in all.
        initial_epoch: Epochs already made.
        callbacks: Keras callbacks.
    """
    callbacks = keras.callbacks.CallbackList(
        list(callbacks), model=trainer, epochs=epochs, steps=steps
    )
    # Keras would set it in `fit`.
    trainer.stop_training = False
    iterator = iter(batches)
    callbacks.on_train_begin()
    for epoch in range(initial_epoch, epochs):
        trainer.reset_metrics()
        callbacks.on_epoch_begin(epoch)
        for number in range(steps):
            callbacks.on_train_batch_begin(number)
            logs = {name: float(value) for name, value in step(next(iterator)).items()}
            callbacks.on_train_batch_end(number, logs)
        callbacks.on_epoch_end(epoch, logs)
        if trainer.stop_training:
            break
    callbacks.on_train_end()
