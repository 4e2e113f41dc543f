"""What a run keeps of its epochs, whenever it gets to writing."""

import keras
import numpy as np
import pytest

from strokeseg_tf.config import SMALL
from strokeseg_tf.engine.checkpoint import state_of
from strokeseg_tf.engine.history import read_history
from strokeseg_tf.engine.precision import precision
from strokeseg_tf.engine.recipe import compile_trainer
from strokeseg_tf.engine.recorder import RunRecorder
from strokeseg_tf.engine.training_twin import build_twin
from strokeseg_tf.runs import Run
from tfrecord_tools.errors import InputError


@pytest.mark.parametrize("time_share", [1.0, 1e-9])
def test_the_model_is_that_of_the_best_epoch_and_the_checkpoint_that_of_the_last(
    time_share, tmp_path
):
    network = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    network.compile("sgd", "mse")
    network.optimizer.build(network.trainable_variables)
    recorder = RunRecorder(Run(tmp_path), network, [], time_share)
    recorder.set_model(network)
    for epoch, dice in enumerate((0.5, 0.9, 0.1)):
        network.layers[0].kernel.assign([[float(epoch)]])
        recorder.on_epoch_end(epoch, {"val_dwi_dice": dice})
    recorder.on_train_end()
    assert keras.saving.load_model(tmp_path / "model.keras").layers[0].kernel.numpy() == 1.0
    assert network.layers[0].kernel.numpy() == 2.0  # Training would go on from there.
    network.layers[0].kernel.assign([[7.0]])
    recorder.restore(network)
    assert network.layers[0].kernel.numpy() == 2.0
    assert [row["val_dwi_dice"] for row in read_history(Run(tmp_path))] == [0.5, 0.9, 0.1]


def small_trainer(precision_name):
    """A network, and the compiled twin that trains it."""
    with precision(precision_name):
        inputs = {"dwi": keras.Input((8, 8, 1), name="dwi")}
        convolve = keras.layers.Conv2D(1, 3, padding="same", dtype="float32", name="head")
        network = keras.Model(inputs, {"dwi": convolve(inputs["dwi"])})
        trainer = build_twin(network)
        compile_trainer(trainer, SMALL, total_steps=10)
    return network, trainer


def recording(run, time_share=1.0):
    network, trainer = small_trainer("float32")
    recorder = RunRecorder(run, network, [], time_share)
    recorder.set_model(trainer)
    return recorder, trainer


@pytest.mark.parametrize("precision_name", ["float32", "float16"])
def test_all_of_a_compiled_trainer_comes_back(precision_name, tmp_path):
    (network, trained), (_, fresh) = (small_trainer(precision_name) for _ in range(2))
    pixels = np.random.default_rng(0).random((4, 8, 8, 1), np.float32)
    for _ in range(3):
        trained.train_on_batch({"dwi": pixels}, {"dwi": pixels > 0.9})
    recorder = RunRecorder(Run(tmp_path), network, [])
    recorder.set_model(trained)
    recorder.on_epoch_end(0, {"val_dwi_dice": 0.5})
    RunRecorder(Run(tmp_path), network, read_history(Run(tmp_path))).restore(fresh)
    expected, given = state_of(trained), state_of(fresh)
    assert len(expected) == len(given)
    for one, other in zip(expected.values(), given.values(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert int(fresh.optimizer.iterations) == 3


def test_epochs_in_memory_are_written_when_asked_and_leftovers_go(tmp_path):
    run = Run(tmp_path)
    recorder, _ = recording(run, time_share=1e-9)
    for epoch in range(3):
        recorder.on_epoch_end(epoch, {"val_dwi_dice": 0.1 * epoch})
    assert len(read_history(run)) == 1
    (run.checkpoints / "partial-epoch-00002.npz").write_bytes(b"half")
    recorder.keep()
    assert [path.name for path in run.checkpoints.iterdir()] == ["epoch-00003.npz"]
    assert len(read_history(run)) == 3


def test_a_damaged_checkpoint_is_told_in_one_line(tmp_path):
    run = Run(tmp_path)
    recorder, trainer = recording(run)
    recorder.on_epoch_end(0, {"val_dwi_dice": 0.5})
    (path,) = run.checkpoints.iterdir()
    whole = path.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], b"no archive", whole[:-200] + bytes(200)):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match="epoch-00001.npz"):
            recorder.restore(trainer)


def test_a_run_whose_checkpoint_is_gone_says_what_to_do(tmp_path):
    recorder = RunRecorder(Run(tmp_path), None, [{"epoch": 1}])
    with pytest.raises(InputError, match="epoch-00001.npz.*is not there.*--overwrite"):
        recorder.restore(None)
