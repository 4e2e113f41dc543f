"""Series of diffusion-weighted volumes in one file, with their b-values beside it (FSL)."""

from pathlib import Path

import numpy as np

from tfrecord_tools.errors import InputError
from tfrecord_tools.image_files import stem

#: The b-value that is wanted, in s/mm2.
WANTED_B = 1000

#: Volumes below this b-value, in s/mm2, hardly show diffusion: they are no DWI.
LOWEST_B = 100

#: Directions whose b-values differ by no more than this, in s/mm2, belong together.
SHELL_WIDTH = 50

#: Share of the brightest hundredth at b = 0 below which there is air and noise.
NOISE = 0.03

#: No tissue has a higher ADC, in 1e-6 mm2/s; free water at body temperature has 3000.
HIGHEST_ADC = 5000


def read_bvalues(image: Path) -> np.ndarray | None:
    """The b-values, float64 in s/mm2, in the `.bval` file beside an image; None without one.

    Raises:
        InputError: The file holds something else than numbers that can be b-values.
    """
    path = image.with_name(f"{stem(image)}.bval")
    if not path.is_file():
        return None
    try:
        values = np.array([float(word) for word in path.read_text(encoding="ascii").split()])
    except (ValueError, OSError) as error:
        raise InputError(
            f"{path} cannot be read as b-values; write one number for each volume of {image.name}"
        ) from error
    if not np.isfinite(values).all() or (values < 0).any():
        raise InputError(f"{path} holds b-values that are negative or no numbers; correct it")
    return values


def find_shell(bvalues: np.ndarray) -> np.ndarray:
    """Indices of the volumes whose b-value is that nearest to `WANTED_B`; none at b = 0 alone."""
    weighted = bvalues[bvalues >= LOWEST_B]
    if not weighted.size:
        return np.array([], int)
    nearest = min(weighted, key=lambda b: (abs(b - WANTED_B), -b))
    return np.flatnonzero(np.abs(bvalues - nearest) <= SHELL_WIDTH)


def geometric_mean(volumes) -> np.ndarray:
    """The mean of the logarithms of volumes, as float64: what the scanner calls trace.

    Args:
        volumes: Iterable of arrays of one shape; where one is not above 0, so is the mean 0.
    """
    total, count = 0.0, 0
    with np.errstate(divide="ignore"):
        for volume in volumes:
            total, count = total + np.log(np.maximum(volume, 0, dtype=np.float64)), count + 1
    return np.exp(total / count)


def derive_adc(weighted: np.ndarray, unweighted: np.ndarray, b_value: float) -> np.ndarray:
    """ADC = -ln(S_b / S_0) / b in 1e-6 mm2/s, float32, from 0 to `HIGHEST_ADC`.

    It is 0 outside of the head, where the image at b = 0 is below `NOISE` of its brightest
    hundredth, and where either image is not above 0.

    Args:
        weighted: S_b.
        unweighted: S_0, of the same shape.
        b_value: The b-value in s/mm2 between the two.
    """
    high, low = (np.maximum(image, 0, dtype=np.float64) for image in (weighted, unweighted))
    signal = (high > 0) & (low > NOISE * np.percentile(low, 99))
    with np.errstate(divide="ignore", invalid="ignore"):
        adc = np.log(low / high) / b_value * 1e6
    return np.where(signal, np.clip(adc, 0, HIGHEST_ADC), 0).astype(np.float32)
