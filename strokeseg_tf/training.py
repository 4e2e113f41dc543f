"""Train one variant: shards and a configuration -> a run folder."""

import contextlib
import json
import os
import platform
import shutil
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

import keras

from strokeseg_tf.config import Config
from strokeseg_tf.data_cache import DataCache
from strokeseg_tf.engine.callbacks import (
    AveragedWeights,
    EpochLine,
    EpochLogs,
    SeededDropout,
    StepBar,
)
from strokeseg_tf.engine.curves import draw_curves
from strokeseg_tf.engine.disk import telling_of_a_full_disk
from strokeseg_tf.engine.distribution import (
    StopTogether,
    build_strategy,
    check_agreement,
    check_sharing,
    distribute,
    gather,
    read_cluster,
    scope,
    telling_of_lost_workers,
)
from strokeseg_tf.engine.history import read_history
from strokeseg_tf.engine.loop import build_step, run_epochs
from strokeseg_tf.engine.precision import choose_precision, precision
from strokeseg_tf.engine.recipe import compile_trainer
from strokeseg_tf.engine.recorder import RunRecorder
from strokeseg_tf.engine.tensorboard import TensorBoardLogs
from strokeseg_tf.engine.threads import use_half_of_the_cores_for_an_operation
from strokeseg_tf.engine.training_twin import build_twin
from strokeseg_tf.losses import build_loss
from strokeseg_tf.models.variants import build_model
from strokeseg_tf.pipeline import EpochOrder, batch_spec, training_batches, usable_studies
from strokeseg_tf.prediction.keras_engine import KerasEngine
from strokeseg_tf.prediction.network import NetworkPredictor
from strokeseg_tf.runs import Run, load_network
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
    verbose=True,
    callbacks=(),
    cache=None,
    origin=None,
    trial=False,
):
    """Train the variant that `config` names and write a run folder.

    Args:
        shards: A finished shards folder with a split `train`, or with the fold that `config`
            names; where it has no split `validation`, the best weights are chosen on the training
            studies.
        run: Run folder to write.
        config: All settings.
        resume: Go on with an interrupted run from the last epoch that was kept.
        overwrite: Replace a run that is there.
        verbose: Whether each epoch is a line on standard error, under a bar of its steps where
            that is a terminal.
        callbacks: More Keras callbacks; they see the complete logs of an epoch.
        cache: `DataCache` of the shards, shared by runs of this process.
        origin: What search the settings come from, for `environment.json`.
        trial: One of many that are compared by their histories: no pictures, no TensorBoard.

    Returns:
        The history: a dictionary for each epoch; empty on workers but the first, which write
        nothing (see `strokeseg_tf.engine.distribution`).

    Raises:
        InputError: No usable data, an existing run, or one that cannot be resumed.
    """
    if keras.backend.backend() != "tensorflow":
        raise InputError(
            f"fit trains on TensorFlow, and KERAS_BACKEND is {keras.backend.backend()}; unset it, "
            "or train the model of strokeseg_tf.models with Keras's own fit"
        )
    use_half_of_the_cores_for_an_operation()
    run = Run(Path(run))
    # The run folder says what was used, not that it was left open.
    config = config.replace(training={"precision": choose_precision(config.training.precision)})
    settings, modalities = config.training, config.model.modalities
    info = read_dataset_info(shards)
    split = settings.validation_split
    if settings.fold is None and not info.splits.get(split):
        split = settings.train_split
    for part in (split, settings.train_split):
        usable_studies(shards, part, modalities, settings.rater)
    cluster = read_cluster()
    # All that can be refused is, before a run is replaced. A run that lacks no epoch waits for no
    # other worker.
    trained = resume and len(read_history(run)) >= settings.epochs
    strategy = None if trained else build_strategy(cluster)
    check_sharing(settings.batch_size, settings.precision, cluster, strategy)
    with _telling_of_workers(cluster):
        history = _open_run(run, config, info, resume, overwrite, cluster)
        if cluster.count > 1 and strategy:
            check_agreement(strategy, config, len(history))
    if len(history) < settings.epochs:
        cache = cache or DataCache(shards)
        if cluster.writes and not history:
            _write_environment(run, info, origin)
        devices = cluster, strategy
        with _telling_of_workers(cluster), telling_of_a_full_disk(run.folder):
            history = _train(cache, run, config, split, history, verbose, callbacks, devices, trial)
    if cluster.writes:
        with telling_of_a_full_disk(run.folder):
            _finish(shards, run, settings, split, history, trial)
    if cluster.count > 1 and strategy:
        # Who ended before the first is done would not come back with it.
        with _telling_of_workers(cluster):
            gather(strategy, [0])
    return history if cluster.writes else []


def _telling_of_workers(cluster):
    return telling_of_lost_workers() if cluster.count > 1 else contextlib.nullcontext()


def _finish(shards, run: Run, settings, split, history, trial):
    """What comes after the last epoch, where it is not there yet."""
    if not (trial or run.curves_file.is_file()):
        draw_curves(history, run.curves_file)
    if settings.threshold is None and not run.threshold_file.is_file():
        best = NetworkPredictor(KerasEngine(load_network(run.model_file)))
        run.write_threshold(choose_threshold(best, shards, split, settings.rater))


def _train(
    cache: DataCache, run: Run, config: Config, split, history, verbose, callbacks, devices, trial
):
    """Train from where `history` ends; the whole history."""
    cluster, strategy = devices
    settings, modalities = config.training, config.model.modalities
    size = config.model.image_size
    # The network is built and its step traced while the data are read.
    background = ThreadPoolExecutor(1)
    wanted = {"modalities": modalities, "rater": settings.rater, "size": size}
    reading = background.submit(cache.slices, settings.train_split, **wanted)
    background.shutdown(wait=False)
    keras.utils.set_random_seed(settings.seed)
    with precision(settings.precision), scope(strategy):
        total_steps = keras.Variable(0, trainable=False, dtype="int64", name="total_steps")
        network = build_model(config.model)
        # The network itself stays as it is: saved, it needs no custom object to load.
        trainer = build_twin(network)
        # Inside, so that Keras adds loss scaling to float16.
        compile_trainer(trainer, config, total_steps)
    spec = batch_spec(modalities, size, settings.batch_size // cluster.count)
    step = build_step(trainer, strategy, spec)
    slices = reading.result()
    if cluster.writes:
        run.write_training_data(slices.description)
    order = EpochOrder(
        slices,
        seed=settings.seed,
        batch_size=settings.batch_size,
        lesion_free_share=settings.lesion_free_share,
        parts=strategy.num_replicas_in_sync if strategy else 1,
    )
    total_steps.assign(order.steps * settings.epochs)
    batches = training_batches(
        slices,
        order,
        modalities=modalities,
        augmentation=config.augmentation,
        epochs=range(len(history), settings.epochs),
        share=(cluster.index, cluster.count),
    )
    recorder = RunRecorder(run, network, history)
    if history:
        recorder.restore(trainer)
    predictor = NetworkPredictor(KerasEngine(trainer), threshold=settings.metric_threshold)
    studies = cache.studies(predictor, split, settings.rater)
    validation = StudyValidation(predictor, build_loss(config.loss), studies)
    every_worker = [
        AveragedWeights(swapped=bool(history)),
        SeededDropout(settings.seed, cluster.index),
    ]
    logs = EpochLogs(
        order.steps * order.batch_size,
        lambda epoch, step: sorted(set(slices.studies[order(epoch)[step]])),
    )
    bar = StepBar(order.steps, settings.epochs)
    told = [bar, EpochLine(settings.epochs, history)] if verbose else []
    drawn = [] if trial else [TensorBoardLogs(predictor, studies, run.logs, settings.epochs)]
    writing = [validation, logs, *told, recorder, *drawn, *callbacks]
    together = [StopTogether(strategy)] if cluster.count > 1 else []
    with bar:
        try:
            run_epochs(
                trainer,
                step,
                distribute(batches, order.batch_size, cluster, strategy),
                steps=order.steps,
                epochs=settings.epochs,
                initial_epoch=len(history),
                callbacks=[*every_worker, *(writing if cluster.writes else [logs]), *together],
            )
        except BaseException:
            # Whatever ends it, epochs that are finished are kept; where the disk is full as well,
            # the first reason is the one to tell.
            with contextlib.suppress(OSError):
                recorder.keep()
            raise
    return recorder.history


def _open_run(run: Run, config: Config, info, resume, overwrite, cluster) -> list[dict]:
    """Prepare the run folder; the history so far where a run goes on."""
    if not cluster.writes:
        return read_history(run) if resume else []
    if resume and run.config_file.is_file():
        before = run.read_config()
        if before != config:
            raise InputError(
                f"{run.folder} was started with other settings ({_difference(before, config)}); "
                "resume it with the same ones, or start another --run"
            )
        _check_data(run, info)
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


def _check_data(run: Run, info):
    """Refuse to go on with other data than the run began with."""
    before = run.read_environment()
    if before and before["data"] != _data(info):
        raise InputError(
            f"{run.folder} was started on other shards (their splits or checksums differ); resume "
            "it on the same, or start another --run"
        )


def _data(info) -> dict:
    return json.loads(json.dumps({"splits": info.splits, "seed": info.seed, "shards": info.shards}))


def _write_environment(run: Run, info, origin):
    content = {
        "versions": {"python": platform.python_version()}
        | {package: metadata.version(package) for package in PACKAGES},
        "machine": {"system": platform.system(), "cores": os.cpu_count()},
        "keras_backend": keras.backend.backend(),
        "data": _data(info),
    } | ({"search": dict(origin)} if origin else {})
    write_text(run.environment_file, json.dumps(content, indent=2) + "\n")
