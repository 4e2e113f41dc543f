"""The state of a training as a file: weights, moments, averages and the number of steps.

Keras's own checkpoints find their variables by walking all objects of the model, which takes as
long as several steps of a small network; here they lie in a row.
"""

import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from tfrecord_tools.errors import InputError


def state_of(trainer) -> dict[str, np.ndarray]:
    """The values of all variables of a compiled model and of its optimiser.

    Args:
        trainer: Compiled model; its optimiser is built.
    """
    return {name: np.array(variable) for name, variable in _variables(trainer).items()}


def write_state(state: Mapping[str, np.ndarray], path: Path) -> None:
    """Write what `state_of` gives as `.npz`."""
    # What np.savez writes; but that leaves its file open where the disk is full.
    with zipfile.ZipFile(path, "w") as archive:
        for name, values in state.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, values, allow_pickle=False)


def load_state(trainer, path: Path) -> None:
    """Put back what `write_state` wrote.

    Args:
        trainer: See `state_of`.
        path: The file.

    Raises:
        InputError: It is damaged, or holds other variables: another version wrote it.
    """
    variables = _variables(trainer)
    try:
        with np.load(path) as stored:
            state = dict(stored)
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path} is damaged ({error}); train anew with --overwrite, or from a copy"
        ) from error
    shapes = {name: variable.shape for name, variable in variables.items()}
    if {name: values.shape for name, values in state.items()} != shapes:
        raise InputError(
            f"{path} does not fit this network: another version wrote it; train with that "
            "version, or anew with --overwrite"
        )
    for name, variable in variables.items():
        variable.assign(state[name])


def _variables(trainer) -> dict:
    """The variables by number and path."""
    variables = [*trainer.weights, *trainer.optimizer.variables]
    return {f"{number} {variable.path}": variable for number, variable in enumerate(variables)}
