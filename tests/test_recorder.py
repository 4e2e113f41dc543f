"""What a run keeps of its epochs, whenever it gets to writing."""

import keras
import pytest

from strokeseg_tf.engine.history import read_history
from strokeseg_tf.engine.recorder import RunRecorder
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


def test_a_run_whose_checkpoint_is_gone_says_what_to_do(tmp_path):
    recorder = RunRecorder(Run(tmp_path), None, [{"epoch": 1}])
    with pytest.raises(InputError, match="epoch-00001.npz.*is not there.*--overwrite"):
        recorder.restore(None)
