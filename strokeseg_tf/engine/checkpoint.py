"""The state of a training as a file: weights, moments, averages and the number of steps.

Keras's own checkpoints find their variables by walking all objects of the model, which takes as
long as several steps of a small network; here they lie in a row.
"""

import zipfile

import numpy as np

from tfrecord_tools.errors import InputError


def save_state(trainer, path) -> None:
    """Write the variables of a compiled model and of its optimiser as `.npz`.

    Args:
        trainer: Compiled model; its optimiser is built.
        path: File to write.
    """
    # What np.savez writes; but that leaves its file open where the disk is full.
    with zipfile.ZipFile(path, "w") as archive:
        for name, variable in _state(trainer).items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.asarray(variable), allow_pickle=False)


def load_state(trainer, path) -> None:
    """Put back what `save_state` wrote.

    Raises:
        InputError: The file holds other variables: another version of the program wrote it.
    """
    state = _state(trainer)
    with np.load(path) as stored:
        if set(stored) != set(state) or any(stored[n].shape != v.shape for n, v in state.items()):
            raise InputError(
                f"{path} does not fit this network: another version wrote it; train with that "
                "version, or anew with --overwrite"
            )
        for name, variable in state.items():
            variable.assign(stored[name])


def _state(trainer) -> dict:
    """The variables by number and path."""
    variables = [*trainer.weights, *trainer.optimizer.variables]
    return {f"{number} {variable.path}": variable for number, variable in enumerate(variables)}
