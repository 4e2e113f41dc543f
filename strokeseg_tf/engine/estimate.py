"""What a training will cost, told before it starts."""

import math
import time

import keras
import numpy as np

#: Of each weight: itself, its gradient, both moments; and a working copy of the flat vector.
COPIES_OF_WEIGHTS = 5


def forward_flop(network) -> int:
    """Floating-point operations of the convolutions for one slice pair; a multiply-add is two."""
    return sum(
        2 * math.prod(layer.output.shape[1:3]) * math.prod(layer.kernel.shape)
        for layer in network.layers
        if isinstance(layer, keras.layers.Conv2D)
    )


def training_bytes(network, batch_size: int, bytes_a_value: int = 4) -> int:
    """Memory that a training step takes at least.

    Every layer's output is kept until its gradient is made, and those gradients take as much
    again where they are widest: a quarter more is reckoned with.
    """
    values = sum(
        math.prod(layer.output.shape[1:]) for layer in network.layers if layer.output.shape
    )
    return int(
        1.25 * batch_size * values * bytes_a_value + COPIES_OF_WEIGHTS * 4 * network.count_params()
    )


def matrix_flop_rate(size: int = 1024, repeats: int = 5) -> float:
    """Floating-point operations a second that a large float32 matrix product reaches here."""
    matrix = keras.ops.convert_to_tensor(np.ones((size, size), np.float32))
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        keras.ops.convert_to_numpy(keras.ops.matmul(matrix, matrix))
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds)


def least_step_seconds(network, batch_size: int) -> float:
    """A step's time if all of it were matrix products: backward costs twice what forward does."""
    return 3 * forward_flop(network) * batch_size / matrix_flop_rate()
