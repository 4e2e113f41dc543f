"""What is searched, and where each value goes in the configuration."""

import dataclasses

from strokeseg_tf.config import Config


@dataclasses.dataclass(frozen=True)
class Parameter:
    """A searched number: a field of the configuration and its range, both ends included."""

    section: str
    field: str
    low: float
    high: float
    sampling: str = "linear"


#: Eq. (1): alpha, gamma and the two values of the class weight map C.
SEARCH_SPACE = {
    "alpha": Parameter("loss", "alpha", 0.05, 0.95),
    "gamma": Parameter("loss", "gamma", 0.0, 5.0),
    "lesion_weight": Parameter("loss", "lesion_weight", 1.0, 20.0, "log"),
    "background_weight": Parameter("loss", "background_weight", 0.1, 2.0, "log"),
}


def searched_config(base: Config) -> Config:
    """The base configuration under the `balanced` reading of alpha.

    Under `uniform` alpha is a constant factor, to which AdamW is blind: a search over it would be
    a search over nothing.
    """
    return base.replace(loss={"alpha_reading": "balanced"})


def declare(hyperparameters, base: Config, space=SEARCH_SPACE):
    """Declare the space to Keras Tuner; the base configuration is its default."""
    for name, parameter in space.items():
        value = getattr(getattr(base, parameter.section), parameter.field)
        hyperparameters.Float(
            name,
            parameter.low,
            parameter.high,
            sampling=parameter.sampling,
            default=min(max(value, parameter.low), parameter.high),
        )
    return hyperparameters


def apply_values(base: Config, values, space=SEARCH_SPACE) -> Config:
    """The configuration of a trial."""
    for name, parameter in space.items():
        base = base.replace(**{parameter.section: {parameter.field: float(values[name])}})
    return base
