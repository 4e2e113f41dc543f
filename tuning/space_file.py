"""The file of `--space`: narrows, widens, fixes, switches on or off what is searched."""

from pathlib import Path

from strokeseg_tf.config import Config, read_object
from tfrecord_tools.errors import InputError
from tuning.search_space import SEARCH_SPACE, Choices, Range, default_space

FORMS = (
    "a value (fixed), true (searched), false (not searched), [low, high], "
    '{"low": 1, "high": 9, "sampling": "log"} or {"choices": [1, 2]}'
)


def read_space(path: str | Path, base: Config) -> tuple[dict[str, Range | Choices], dict]:
    """Read a space file, JSON or (`.toml`) TOML: an object by names of `SEARCH_SPACE`.

    Args:
        path: The file; what it does not name is searched as without it.
        base: The configuration that values are put into.

    Returns:
        `(space, fixed)`: domains and fixed values by name.

    Raises:
        InputError: It cannot be read, or names an unknown parameter or impossible values.
    """
    space, fixed = default_space(), {}
    for name, entry in _read(path).items():
        if name not in SEARCH_SPACE:
            raise InputError(
                f"unknown parameter {name!r} in {path}; known: {', '.join(SEARCH_SPACE)}"
            )
        space.pop(name, None)
        try:
            domain = _parse(entry, SEARCH_SPACE[name].domain)
            for value in () if domain is None else getattr(domain, "extremes", [domain]):
                SEARCH_SPACE[name].put(base, value)
        except (ValueError, TypeError) as error:
            raise InputError(f"{name} in {path}: {error}; correct it there") from error
        if isinstance(domain, Range | Choices):
            space[name] = domain
        elif domain is not None:
            fixed[name] = domain
    return space, fixed


def _read(path: str | Path) -> dict:
    try:
        return read_object(path)
    except ValueError as error:
        raise InputError(f"{path}: {error}; name parameters, each with {FORMS}") from error


def _parse(entry, own):
    """A domain, a fixed value, or None for what is not searched."""
    if isinstance(entry, bool):
        return own if entry else None
    if isinstance(entry, dict) and set(entry) == {"choices"}:
        return _choices(entry["choices"])
    if isinstance(entry, dict) and isinstance(own, Range):
        if not {"low", "high"} <= set(entry) <= {"low", "high", "sampling"}:
            raise ValueError(f"received {entry}, must be {FORMS}")
        return _range(entry["low"], entry["high"], entry.get("sampling", own.sampling))
    if isinstance(entry, list) and isinstance(own, Choices):
        return _choices(entry)
    if isinstance(entry, list) and len(entry) == 2:
        return _range(*entry, own.sampling)
    if isinstance(entry, list | dict):
        raise ValueError(f"received {entry}, must be {FORMS}")
    return float(entry) if isinstance(entry, int) else entry


def _range(low, high, sampling) -> Range:
    low, high = float(low), float(high)
    if sampling not in ("linear", "log"):
        raise ValueError(f"unknown sampling {sampling!r}; known: linear, log")
    if not low < high:
        raise ValueError(f"the lower bound {low:g} is not below the upper bound {high:g}")
    if sampling == "log" and low <= 0:
        raise ValueError(f"a log range starts above 0, received {low:g}")
    return Range(low, high, sampling)


def _choices(values) -> Choices:
    if not isinstance(values, list) or len(values) < 2 or len(set(map(str, values))) < len(values):
        raise ValueError(f"choices must be two or more different values, received {values}")
    if len({isinstance(value, str) for value in values}) > 1:
        raise ValueError(f"choices must be all numbers or all words, received {values}")
    return Choices(tuple(v if isinstance(v, str) else float(v) for v in values))
