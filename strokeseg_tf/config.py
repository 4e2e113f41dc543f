"""Every setting of a run, with its source; the presets.

Sources: "paper" is section 2.3 of the paper; "code" is the authors' published configuration,
where it differs from the text. Standard library only (and `tomli` before Python 3.11).
"""

import dataclasses
import json
import math
import typing
from collections.abc import Mapping
from pathlib import Path


def _known(name, known, what):
    if name not in known:
        raise ValueError(f"unknown {what} {name!r}; known: {', '.join(known)}")


def _one_of(settings, name, *known):
    value = getattr(settings, name)
    if value not in known:
        raise ValueError(f"unknown {name} {value!r}; known: {', '.join(known)}")


def _within(settings, name, low, high=math.inf, ends="[)"):
    """Check that a field lies in an interval; `ends` says which bounds belong to it."""
    value = getattr(settings, name)
    above = low < value if ends[0] == "(" else low <= value
    below = value < high if ends[1] == ")" else value <= high
    if not (above and below):  # Also where the value is NaN.
        raise ValueError(f"{name} must be in {ends[0]}{low}, {high}{ends[1]}, received {value}")


def _typed(value, expected, name):
    """The value as its field's type; JSON has no tuples and writes 1 for 1.0."""
    options = typing.get_args(expected)
    if typing.get_origin(expected) is tuple:
        if not isinstance(value, list | tuple):
            raise ValueError(f"{name} must be a list, received {value!r}")
        return tuple(_typed(item, options[0], name) for item in value)
    if options:  # X | None
        return None if value in (None, "none") else _typed(value, options[0], name)
    if expected is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, expected) or (expected is int and isinstance(value, bool)):
        raise ValueError(f"{name} must be {expected.__name__}, received {value!r}")
    return value


@dataclasses.dataclass(frozen=True)
class ModelSettings:
    """The network.

    Attributes:
        variant: `unimodal`, `dual_v1`, `dual_v2` or `dual_v3` (paper, Fig. 3).
        modality: Input of `unimodal`: `adc` or `dwi`; unused by the dual variants.
        image_size: Height and width of the network's input in pixels (paper: 224); a multiple of
            2^(levels - 1).
        filters: Filters of each encoder level (paper: 32 to 512).
        bottleneck: Filters of the embedding (paper: 1024).
        dropout: Dropout rate at the end of each block (paper: none given; code: 0.3).
        pooling: `average` (code) or `max`.
        joint_embedding: Decoders start from both embeddings concatenated (paper) or each from
            its own (code, V2 and V3).
        prior: Probability that an untrained head gives to every pixel, in (0, 1) (Keras: 0.5;
            0.01 in Lin et al., 2017, so that background does not swamp the first steps).
        norm_momentum: Momentum of the batch normalisation's running statistics (Keras: 0.99).
    """

    variant: str = "dual_v1"
    modality: str = "adc"
    image_size: int = 224
    filters: tuple[int, ...] = (32, 64, 128, 256, 512)
    bottleneck: int = 1024
    dropout: float = 0.0
    pooling: str = "average"
    joint_embedding: bool = True
    prior: float = 0.5
    norm_momentum: float = 0.99

    def __post_init__(self):
        _one_of(self, "variant", "unimodal", "dual_v1", "dual_v2", "dual_v3")
        _one_of(self, "modality", "adc", "dwi")
        _one_of(self, "pooling", "average", "max")
        _within(self, "dropout", 0, 1)
        _within(self, "prior", 0, 1, "()")
        _within(self, "norm_momentum", 0, 1)
        _within(self, "bottleneck", 1)
        if not self.filters or min(self.filters) < 1:
            raise ValueError(f"filters must be positive numbers, received {self.filters}")
        stride = 2 ** (len(self.filters) - 1)
        if self.image_size < stride or self.image_size % stride:
            raise ValueError(
                f"image_size must be a multiple of {stride} for {len(self.filters)} levels, "
                f"received {self.image_size}"
            )

    @property
    def modalities(self) -> tuple[str, ...]:
        """What goes in, and what masks come out."""
        return (self.modality,) if self.variant == "unimodal" else ("adc", "dwi")


@dataclasses.dataclass(frozen=True)
class LossSettings:
    """Eq. (1).

    Attributes:
        alpha: Weight balancing factor (paper: 0.25).
        gamma: Focusing parameter (paper: 2).
        alpha_reading: `uniform`: alpha multiplies every pixel, as printed; `balanced`: alpha on
            lesion, 1 - alpha on background pixels (Lin et al., 2017).
        lesion_weight: Value of the class weight map C on lesion pixels (paper: 3).
        background_weight: Its value elsewhere (paper: 1).
    """

    alpha: float = 0.25
    gamma: float = 2.0
    alpha_reading: str = "uniform"
    lesion_weight: float = 3.0
    background_weight: float = 1.0

    def __post_init__(self):
        _one_of(self, "alpha_reading", "uniform", "balanced")
        _within(self, "alpha", 0, 1, "[]")
        for name in ("gamma", "lesion_weight", "background_weight"):
            _within(self, name, 0)


@dataclasses.dataclass(frozen=True)
class OptimiserSettings:
    """AdamW with linear warm-up and cosine decay.

    Attributes:
        learning_rate: Peak, at the end of the warm-up (paper: 5e-3).
        warmup_share: Share of the epochs that warm up (paper: 90 of 300; code: 0.4).
        weight_decay: Decoupled decay (paper: 1e-5).
        decay_scaled_by_lr: The decay is multiplied by the learning rate, as in Keras (code: it
            is not, as in TensorFlow Addons).
        epsilon: Keeps the division by the second moment finite (Keras: 1e-7).
        clipnorm: Largest norm of each weight tensor's gradient; None for no limit (code: 1).
        ema_momentum: Momentum of a running average of the weights, which is what is validated
            and kept; None for none (code: 0.999).
    """

    learning_rate: float = 5e-3
    warmup_share: float = 0.3
    weight_decay: float = 1e-5
    decay_scaled_by_lr: bool = True
    epsilon: float = 1e-7
    clipnorm: float | None = None
    ema_momentum: float | None = None

    def __post_init__(self):
        _within(self, "learning_rate", 0, ends="()")
        _within(self, "warmup_share", 0, 1)
        _within(self, "weight_decay", 0)
        _within(self, "epsilon", 0, ends="()")
        if self.clipnorm is not None:
            _within(self, "clipnorm", 0, ends="()")
        if self.ema_momentum is not None:
            _within(self, "ema_momentum", 0, 1)


@dataclasses.dataclass(frozen=True)
class AugmentationSettings:
    """The paper's list; magnitudes from the code. Each transform is applied with `probability`.

    Attributes:
        probability: Of each transform, in [0, 1]; 0 switches augmentation off (code: 0.5).
        flips: Along `both` in-plane axes (code), `left_right` only, or `none`.
        transpose: Exchange of rows and columns (code).
        rotation_degrees: Largest rotation, either way (code: 7).
        brightness: Largest shift, as a share of the [0, 1] range (code: 0.1).
        contrast: Largest change of the contrast factor (code: 0.1).
        elastic: (alpha, sigma) of the elastic transform in pixels, or None (code: 5, 1.5).
        grid_distortion: Largest relative shift of a grid line, or 0 (code: 0.1).
        optical_distortion: Largest distortion coefficient, or 0 (code: 0.5).
        engine: `fast` composes the transforms and samples a slice once; `albumentations` is the
            reference that it is held against (code), several times slower.
    """

    probability: float = 0.5
    flips: str = "both"
    transpose: bool = True
    rotation_degrees: float = 7.0
    brightness: float = 0.1
    contrast: float = 0.1
    elastic: tuple[float, ...] | None = (5.0, 1.5)
    grid_distortion: float = 0.1
    optical_distortion: float = 0.5
    engine: str = "fast"

    def __post_init__(self):
        _one_of(self, "flips", "both", "left_right", "none")
        _one_of(self, "engine", "fast", "albumentations")
        for name in ("probability", "brightness", "contrast", "grid_distortion"):
            _within(self, name, 0, 1, "[]")
        for name in ("rotation_degrees", "optical_distortion"):
            _within(self, name, 0)
        if self.elastic is not None and not (
            len(self.elastic) == 2 and self.elastic[0] >= 0 and self.elastic[1] >= 1
        ):
            raise ValueError(
                "elastic must be (alpha, sigma) with alpha from 0 and sigma from 1, "
                f"received {self.elastic}"
            )


@dataclasses.dataclass(frozen=True)
class TrainingSettings:
    """How long, on what, how.

    Attributes:
        epochs: Passes over the training slices (paper: 300).
        batch_size: Slice pairs a step (paper: 16).
        lesion_free_share: Share of the slices without lesion that an epoch draws, in [0, 1]
            (paper: 1, all of them).
        rater: Whose masks are learnt (paper: R1).
        seed: Of weights, order and augmentation.
        fold: Which fold of the split `train` to validate on while the others are learnt, for
            cross-validation; None for the splits `train` and `validation` (paper).
        precision: `float32`, `bfloat16` or `float16` arithmetic; weights, heads and loss stay in
            float32. `auto`: bfloat16 where the hardware multiplies it, else float32.
        threshold: Probability above which a pixel is lesion (code: 0.5); None to choose it on
            the validation studies when training ends.
    """

    epochs: int = 300
    batch_size: int = 16
    lesion_free_share: float = 1.0
    rater: str = "r1"
    seed: int = 0
    precision: str = "float32"
    threshold: float | None = 0.5
    fold: int | None = None

    def __post_init__(self):
        _within(self, "lesion_free_share", 0, 1, "[]")
        _within(self, "epochs", 1)
        _within(self, "batch_size", 1)
        _within(self, "seed", 0)
        if self.fold is not None:
            _within(self, "fold", 0)
        _one_of(self, "precision", "float32", "bfloat16", "float16", "auto")
        if self.threshold is not None:
            _within(self, "threshold", 0, 1, "()")

    @property
    def metric_threshold(self) -> float:
        """The threshold of the figures that are shown while training."""
        return 0.5 if self.threshold is None else self.threshold

    @property
    def train_split(self) -> str:
        """The split, or view of folds, that is learnt."""
        return "train" if self.fold is None else f"fold{self.fold}-train"

    @property
    def validation_split(self) -> str:
        """The split, or view of folds, that the best weights are chosen on."""
        return "validation" if self.fold is None else f"fold{self.fold}-validation"


@dataclasses.dataclass(frozen=True)
class Config:
    """All settings of a run."""

    model: ModelSettings = ModelSettings()
    loss: LossSettings = LossSettings()
    optimiser: OptimiserSettings = OptimiserSettings()
    augmentation: AugmentationSettings = AugmentationSettings()
    training: TrainingSettings = TrainingSettings()

    def replace(self, /, **changes: Mapping) -> "Config":
        """A copy with some fields of some sections changed: `replace(training={"epochs": 3})`.

        Raises:
            ValueError: An unknown section or field, or a value of the wrong type or range; the
                message names the known ones.
        """
        sections = {}
        for name, values in changes.items():
            _known(name, [f.name for f in dataclasses.fields(self)], "section")
            section = getattr(self, name)
            if not isinstance(values, Mapping):
                raise ValueError(f"section {name!r} must hold fields, received {values!r}")
            types = typing.get_type_hints(type(section))
            for field in values:
                _known(field, list(types), f"field of {name!r}")
            typed = {f: _typed(v, types[f], f"{name}.{f}") for f, v in values.items()}
            sections[name] = dataclasses.replace(section, **typed)
        return dataclasses.replace(self, **sections)

    def to_dict(self) -> dict:
        """Plain values, ready for JSON."""
        return dataclasses.asdict(self)


def read_config(path: str | Path, base: Config) -> Config:
    """Read a JSON or TOML file of sections and fields; what it leaves out comes from `base`.

    TOML has no null: a limit that is to be absent is written `"none"`.

    Raises:
        ValueError: The file is no JSON object, or holds an unknown or impossible setting.
    """
    try:
        return base.replace(**read_object(path))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def read_object(path: str | Path) -> dict:
    """The object in a JSON or (`.toml`) TOML file.

    Raises:
        ValueError: There is none.
    """
    text = Path(path).read_text(encoding="utf-8")
    if Path(path).suffix.lower() != ".toml":
        content = json.loads(text)
        if not isinstance(content, dict):
            raise ValueError("the file holds no JSON object")
        return content
    try:
        import tomllib
    except ModuleNotFoundError:  # Python 3.10
        import tomli as tomllib
    return tomllib.loads(text)


PAPER = Config()

#: The authors' code where it differs from the paper's text, field by field.
PAPER_CODE = PAPER.replace(
    model={"dropout": 0.3, "joint_embedding": False},
    optimiser={
        "warmup_share": 0.4,
        "decay_scaled_by_lr": False,
        "clipnorm": 1.0,
        "ema_momentum": 0.999,
    },
)

#: The same topology, narrow, at half the size, with a recipe for few steps: it learns in minutes on
#: two CPU cores. Its width lies at full resolution, where small lesions are; eight channels cost
#: little more there than four. Chosen on phantoms.
SMALL = PAPER.replace(
    model={
        "image_size": 112,
        "filters": [8, 8, 16, 32, 32],
        "bottleneck": 64,
        "prior": 0.01,
        "norm_momentum": 0.95,
    },
    # Drawing a quarter of the slices without lesion doubles the odds of lesion: C weighs less.
    loss={"gamma": 1.0, "lesion_weight": 2.0},
    optimiser={"learning_rate": 4e-3, "warmup_share": 0.05, "epsilon": 1e-8, "clipnorm": 1.0},
    augmentation={
        "flips": "left_right",
        "transpose": False,
        "brightness": 0.0,
        "elastic": None,
        "grid_distortion": 0.0,
        "optical_distortion": 0.0,
    },
    training={"epochs": 30, "batch_size": 8, "lesion_free_share": 0.25},
)

PRESETS = {"paper": PAPER, "paper-code": PAPER_CODE, "small": SMALL}
