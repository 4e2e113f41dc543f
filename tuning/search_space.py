"""What can be searched, over which values, and where each value goes in the configuration."""

import dataclasses
from collections.abc import Callable, Mapping

from strokeseg_tf.config import Config
from tfrecord_tools.errors import InputError


@dataclasses.dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included, drawn evenly or (`log`) evenly in their log."""

    low: float
    high: float
    sampling: str = "linear"

    def __str__(self):
        return f"{self.low:g} to {self.high:g}" + (", log" if self.sampling == "log" else "")

    @property
    def extremes(self):
        """Values that must be legal for all others to be."""
        return self.low, self.high


@dataclasses.dataclass(frozen=True)
class Choices:
    """One of these values."""

    values: tuple

    def __str__(self):
        return "one of " + ", ".join(map(str, self.values))

    @property
    def extremes(self):
        """Values that must be legal for all others to be."""
        return self.values


@dataclasses.dataclass(frozen=True)
class Parameter:
    """A setting, or a factor on some, that can be searched.

    Attributes:
        domain: Its values unless a space file gives others.
        put: (configuration, value) -> the configuration with this value.
        take: Its value in a configuration.
        default_on: Whether it is searched unless a space file says otherwise.
    """

    domain: Range | Choices
    put: Callable[[Config, object], Config]
    take: Callable[[Config], object]
    default_on: bool = False


def _field(section, field, domain, default_on=False):
    """A parameter that is a field of the configuration."""
    return Parameter(
        domain,
        lambda config, value: config.replace(**{section: {field: value}}),
        lambda config: getattr(getattr(config, section), field),
        default_on,
    )


def _scale_filters(config, factor):
    model = config.model
    filters = [max(1, round(f * factor)) for f in model.filters]
    bottleneck = max(1, round(model.bottleneck * factor))
    return config.replace(model={"filters": filters, "bottleneck": bottleneck})


def _scale_augmentation(config, factor):
    """Every magnitude times `factor`; shares stay at most 1."""
    old = config.augmentation
    new = {name: factor * getattr(old, name) for name in ("rotation_degrees", "optical_distortion")}
    for name in ("brightness", "contrast", "grid_distortion"):
        new[name] = min(1.0, factor * getattr(old, name))
    if old.elastic:
        new["elastic"] = [factor * old.elastic[0], old.elastic[1]]
    return config.replace(augmentation=new)


#: By name. The first four are eq. (1): alpha, gamma and the two values of the class weight map C.
SEARCH_SPACE = {
    "alpha": _field("loss", "alpha", Range(0.05, 0.95), default_on=True),
    "gamma": _field("loss", "gamma", Range(0.0, 5.0), default_on=True),
    "lesion_weight": _field("loss", "lesion_weight", Range(1.0, 20.0, "log"), default_on=True),
    "background_weight": _field(
        "loss", "background_weight", Range(0.1, 2.0, "log"), default_on=True
    ),
    "alpha_reading": _field("loss", "alpha_reading", Choices(("uniform", "balanced"))),
    "learning_rate": _field("optimiser", "learning_rate", Range(1e-4, 2e-2, "log")),
    "dropout": _field("model", "dropout", Range(0.0, 0.5)),
    # Factors on what the configuration has.
    "filters": Parameter(Choices((0.5, 1.0, 2.0)), _scale_filters, lambda config: 1.0),
    "augmentation": Parameter(Range(0.0, 2.0), _scale_augmentation, lambda config: 1.0),
    "threshold": dataclasses.replace(
        _field("training", "threshold", Range(0.2, 0.8)),
        take=lambda config: config.training.metric_threshold,
    ),
}


def default_space() -> dict[str, Range | Choices]:
    """The domains that are searched where no space file says otherwise."""
    return {name: p.domain for name, p in SEARCH_SPACE.items() if p.default_on}


def apply_values(base: Config, values: Mapping) -> Config:
    """The configuration with these values of `SEARCH_SPACE`; other names are left out."""
    for name, parameter in SEARCH_SPACE.items():
        if name in values:
            value = values[name]
            # With numpy's doubles, which the Gaussian process gives, a loss would be in double.
            base = parameter.put(base, value if isinstance(value, str) else float(value))
    return base


def searched_config(base: Config) -> Config:
    """The configuration under the `balanced` reading of alpha."""
    return base.replace(loss={"alpha_reading": "balanced"})


def check_space(space: Mapping[str, Range | Choices], base: Config) -> None:
    """Refuse a search over nothing.

    Raises:
        InputError: The space is empty, or alpha would be searched under `uniform`, where it is a
            constant factor, to which AdamW is blind.
    """
    if not space:
        raise InputError("the space is empty: every parameter is fixed or off; search at least one")
    readings = space["alpha_reading"].values if "alpha_reading" in space else ()
    if "alpha" in space and "uniform" in (base.loss.alpha_reading, *readings):
        raise InputError(
            "alpha cannot be searched under the reading `uniform` of loss.alpha_reading: there it "
            "is a constant factor, to which AdamW is blind; set the reading to `balanced`, or "
            "alpha = false in the --space file"
        )
