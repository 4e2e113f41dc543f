"""Train one variant: shards and a configuration -> a run folder."""

import contextlib
import csv
import io
import json
import math
import os
import platform
import shutil
import time
from importlib import metadata
from pathlib import Path

import keras

from strokeseg_tf.config import Config
from strokeseg_tf.data_cache import DataCache
from strokeseg_tf.fused_norm import fuse_norms
from strokeseg_tf.losses import build_loss
from strokeseg_tf.metrics import build_metrics
from strokeseg_tf.models.variants import build_model
from strokeseg_tf.optimiser import build_optimiser
from strokeseg_tf.pipeline import training_batches, usable_studies
from strokeseg_tf.prediction.network import NetworkPredictor
from strokeseg_tf.runs import Run, load_network
from strokeseg_tf.threads import use_half_of_the_cores_for_an_operation
from strokeseg_tf.threshold import choose_threshold
from strokeseg_tf.validation import StudyValidation
from tfrecord_tools.atomic import check_free, write_text
from tfrecord_tools.errors import InputError
from tfrecord_tools.shards import read_dataset_info

PACKAGES = ("strokeseg-tf", "tensorflow", "keras", "numpy", "albumentations")


def fit(
    shards,
    run,
    config: Config,
    *,
    resume=False,
    overwrite=False,
    verbose="auto",
    callbacks=(),
    cache=None,
    origin=None,
):
    """Train the variant that `config` names and write a run folder.

    Args:
        shards: A finished shards folder with a split `train`, or with the fold that `config`
            names; where it has no split `validation`, the best weights are chosen on the training
            studies.
        run: Run folder to write.
        config: All settings.
        resume: Go on with an interrupted run from its last finished epoch.
        overwrite: Replace a run that is there.
        verbose: As in `keras.Model.fit`.
        callbacks: More Keras callbacks; they see the complete logs of an epoch that is on disk.
        cache: `DataCache` of the shards, shared by runs of this process.
        origin: What search the settings come from, for `environment.json`.

    Returns:
        The history: a dictionary for each epoch.

    Raises:
        InputError: No usable data, an existing run, or one that cannot be resumed.
    """
    use_half_of_the_cores_for_an_operation()
    run = Run(Path(run))
    info = read_dataset_info(shards)
    settings, modalities = config.training, config.model.modalities
    split = settings.validation_split
    if settings.fold is None and not info.splits.get(split):
        split = settings.train_split
    usable_studies(shards, split, modalities, settings.rater)
    history = _open_run(run, config, resume, overwrite)
    if len(history) < settings.epochs:
        _write_environment(run, info, origin)
        cache = cache or DataCache(shards)
        run.write_training_data(
            cache.description(settings.train_split, modalities=modalities, rater=settings.rater)
        )
        history = _train(cache, run, config, split, history, verbose, callbacks)
    if settings.threshold is None and not run.threshold_file.is_file():
        best = NetworkPredictor(load_network(run.model_file))
        run.write_threshold(choose_threshold(best, shards, split, settings.rater))
    return history


def _train(cache: DataCache, run: Run, config: Config, split, history, verbose, callbacks):
    """Train from where `history` ends; the whole history."""
    settings, modalities = config.training, config.model.modalities
    keras.utils.set_random_seed(settings.seed)
    slices = cache.slices(
        settings.train_split,
        modalities=modalities,
        rater=settings.rater,
        size=config.model.image_size,
    )
    batches, steps = training_batches(
        slices,
        modalities=modalities,
        augmentation=config.augmentation,
        seed=settings.seed,
        batch_size=settings.batch_size,
        epochs=range(len(history), settings.epochs),
        lesion_free_share=settings.lesion_free_share,
    )
    with _precision(settings.precision):
        network = build_model(config.model)
        # The network itself stays as it is: saved, it needs no custom object to load.
        trainer = fuse_norms(network)
        # Inside, so that Keras adds loss scaling to float16.
        compile_trainer(trainer, config, steps)
    recorder = RunRecorder(run, network, history)
    if history:
        recorder.restore(trainer)
    predictor = NetworkPredictor(trainer, threshold=settings.metric_threshold)
    studies = cache.studies(predictor, split, settings.rater)
    trainer.fit(
        batches,
        steps_per_epoch=steps,
        epochs=settings.epochs,
        initial_epoch=len(history),
        shuffle=False,
        verbose=verbose,
        callbacks=[
            AveragedWeights(swapped=bool(history)),
            StudyValidation(predictor, build_loss(config.loss), studies),
            EpochLogs(),
            recorder,
            keras.callbacks.TensorBoard(run.logs, write_graph=False),
            *callbacks,
        ],
    )
    return recorder.history


def compile_trainer(trainer, config: Config, steps_per_epoch):
    """Compile a model with the recipe of `config`, ready for its first step."""
    heads = list(trainer.output)
    # Keras prefixes the names of metrics with the head's where there are several heads.
    prefix = f"{heads[0]}_" if len(heads) == 1 else ""
    trainer.compile(
        optimizer=build_optimiser(config.optimiser, steps_per_epoch * config.training.epochs),
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


class EpochLogs(keras.callbacks.Callback):
    """Stops on a loss that is no number; adds `seconds` and `learning_rate` to epochs' logs."""

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch, self._start = epoch, time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        if not math.isfinite(logs["loss"]):
            raise InputError(
                f"the loss became {logs['loss']} in epoch {self._epoch + 1}, step {batch + 1}, at "
                f"a learning rate of {self._rate():.3g}; try a lower --learning-rate"
            )

    def on_epoch_end(self, epoch, logs=None):
        logs["learning_rate"] = self._rate()
        logs["seconds"] = time.perf_counter() - self._start

    def _rate(self):
        return float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))


class AveragedWeights(keras.callbacks.Callback):
    """Puts the running average of the weights in place, where there is one, between epochs.

    It is the average that is validated and kept; training goes on from the weights themselves.

    Args:
        swapped: Whether the average is in place when training starts, as in a checkpoint.
    """

    def __init__(self, swapped):
        super().__init__()
        self._swapped = swapped

    def on_epoch_begin(self, epoch, logs=None):
        if self._swapped:
            self._swap()

    def on_epoch_end(self, epoch, logs=None):
        self._swap()

    def _swap(self):
        optimiser = self.model.optimizer
        optimiser = getattr(optimiser, "inner_optimizer", optimiser)
        if optimiser.averages_weights:
            optimiser.swap_average()
            self._swapped = not self._swapped


class RunRecorder(keras.callbacks.Callback):
    """Keeps the best model, the last state and the history; each file appears whole.

    The row of an epoch is written last: an epoch that has a row has its checkpoint.
    """

    def __init__(self, run: Run, network, history: list[dict]):
        super().__init__()
        self.history = history
        self._run = run
        self._network = network

    def restore(self, trainer):
        """Load the state after the last epoch of the history."""
        trainer.optimizer.build(trainer.trainable_variables)
        trainer.load_weights(self._checkpoint(len(self.history)))

    def on_epoch_end(self, epoch, logs=None):
        row = {"epoch": epoch + 1} | {key: float(value) for key, value in logs.items()}
        best = max(map(mean_dice, self.history), default=-1.0)
        if mean_dice(row) > best:
            _save_whole(self._run.model_file, self._network.save)
        self._run.checkpoints.mkdir(exist_ok=True)
        _save_whole(self._checkpoint(epoch + 1), self.model.save_weights)
        self.history.append(row)
        write_text(self._run.history_file, _to_csv(self.history))
        self._checkpoint(epoch).unlink(missing_ok=True)

    def _checkpoint(self, epochs):
        return self._run.checkpoints / f"epoch-{epochs:05d}.weights.h5"


def mean_dice(row):
    """Mean over the heads of an epoch's validation Dice: what the best weights are chosen by."""
    dices = [v for key, v in row.items() if key.startswith("val_") and key.endswith("_dice")]
    return sum(dices) / len(dices)


def _save_whole(path: Path, save):
    partial = path.with_name(f"partial-{path.name}")
    save(partial)
    os.replace(partial, path)


#: The columns of `history.csv` that come first; the training metrics follow.
FIRST_COLUMNS = (
    "epoch", "loss", "val_loss", "val_adc_dice", "val_dwi_dice", "learning_rate", "seconds"
)  # fmt: skip


def _to_csv(history):
    columns = [c for c in FIRST_COLUMNS if c in history[0]]
    columns += sorted(set(history[0]) - set(columns))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    return text.getvalue()


def read_history(run: Run) -> list[dict]:
    """The rows of `history.csv`, or none."""
    if not run.history_file.is_file():
        return []
    with open(run.history_file, newline="", encoding="utf-8") as file:
        rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
    return [row | {"epoch": int(row["epoch"])} for row in rows]


def _open_run(run: Run, config: Config, resume, overwrite) -> list[dict]:
    """Prepare the run folder; the history so far where a run goes on."""
    if resume and run.config_file.is_file():
        before = run.read_config()
        if before != config:
            raise InputError(
                f"{run.folder} was started with other settings ({_difference(before, config)}); "
                "resume it with the same ones, or start another --run"
            )
        return read_history(run)
    check_free(run.folder, overwrite, marker=run.config_file.name)
    if run.folder.exists():
        shutil.rmtree(run.folder)
    run.folder.mkdir(parents=True)
    run.write_config(config)
    return []


def _difference(before: Config, after: Config) -> str:
    return ", ".join(
        f"{section}.{field} {old[field]} then, {new[field]} now"
        for (section, old), new in zip(
            before.to_dict().items(), after.to_dict().values(), strict=True
        )
        for field in old
        if old[field] != new[field]
    )


def _write_environment(run: Run, info, origin):
    content = {
        "versions": {"python": platform.python_version()}
        | {package: metadata.version(package) for package in PACKAGES},
        "machine": {"system": platform.system(), "cores": os.cpu_count()},
        "keras_backend": keras.backend.backend(),
        "data": {"splits": info.splits, "seed": info.seed, "shards": info.shards},
    } | ({"search": dict(origin)} if origin else {})
    write_text(run.environment_file, json.dumps(content, indent=2) + "\n")


@contextlib.contextmanager
def _precision(name):
    """Build layers under a Keras dtype policy, and put the old one back."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name if name == "float32" else f"mixed_{name}")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
