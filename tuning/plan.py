"""What a search must not change on its way: `search.json`."""

import dataclasses
import json
import math
import shutil
from importlib import metadata
from pathlib import Path

from strokeseg_tf.config import Config
from tfrecord_tools.atomic import check_free, write_text
from tfrecord_tools.errors import InputError
from tfrecord_tools.shards import read_dataset_info
from tuning.search_space import Choices, Range, check_space

#: What the folder of a search is known by.
SEARCH = "search.json"
PACKAGES = ("strokeseg-tf", "keras-tuner", "keras", "tensorflow", "scikit-learn")
#: By name: what an epoch is judged by, from its row of the history.
OBJECTIVES = {
    "native": "mean over the heads of the validation studies' Dice at native resolution",
    "slices": "mean over the heads of the validation slices' Dice at the network's size",
    "adc": "validation studies' Dice of the ADC head at native resolution",
    "dwi": "validation studies' Dice of the DWI head at native resolution",
}
TUNERS = ("bayesian", "random", "grid", "hyperband")
PRUNING = ("median", "none")
#: What a grid cuts a range into.
GRID_POINTS = 3


@dataclasses.dataclass(frozen=True)
class Plan:
    """A search.

    Attributes:
        base: Settings of every trial but what is searched.
        default: The settings that trials are compared with; what `fit` would take unsearched.
        space: Domains by name of `SEARCH_SPACE`.
        fixed: Values by name; they are in `base`.
        objective: Key of `OBJECTIVES`, maximised.
        tuner: One of `TUNERS`.
        executions: Trainings of a trial, each under another seed.
        folds: Folds of cross-validation in each trial, 0 for the split `validation`.
        repeats: How often the default is trained, each time under other seeds; finalists are
            trained under the same ones.
        finalists: Best trials that are repeated before one of them is the winner; 0 for none.
        pruning: One of `PRUNING`.
        patience: Epochs without improvement that end a training; None for no end.
    """

    base: Config
    default: Config
    space: dict[str, Range | Choices]
    fixed: dict = dataclasses.field(default_factory=dict)
    objective: str = "native"
    tuner: str = "bayesian"
    executions: int = 1
    folds: int = 0
    repeats: int = 3
    finalists: int = 3
    pruning: str = "median"
    patience: int | None = None

    def __post_init__(self):
        for name, known in (("objective", OBJECTIVES), ("tuner", TUNERS), ("pruning", PRUNING)):
            if (value := getattr(self, name)) not in known:
                raise InputError(f"unknown {name} {value!r}; known: {', '.join(known)}")
        for name, low in (("executions", 1), ("repeats", 0), ("finalists", 0), ("patience", 1)):
            if (value := getattr(self, name)) is not None and value < low:
                raise InputError(f"--{name} must be at least {low}, received {value}")
        if self.objective in ("adc", "dwi") and self.objective not in self.modalities:
            raise InputError(f"--objective {self.objective} needs a model with that head")
        check_space(self.space, self.base)

    @property
    def modalities(self) -> tuple[str, ...]:
        """The heads."""
        return self.base.model.modalities

    @property
    def score_name(self) -> str:
        """The column of the objective in `trials.csv`."""
        return f"validation_dice_{self.objective}"

    def value_of(self, row) -> float:
        """The objective of an epoch, from its row of the history."""
        heads = self.modalities if self.objective in ("native", "slices") else (self.objective,)
        end = "_slices" if self.objective == "slices" else ""
        return sum(row[f"val_{m}_dice{end}"] for m in heads) / len(heads)

    @property
    def grid_points(self) -> int:
        """Size of the grid."""
        domains = self.space.values()
        return math.prod(GRID_POINTS if isinstance(d, Range) else len(d.values) for d in domains)

    def content(self, shards) -> dict:
        """What stands in `search.json`, as JSON gives it back."""
        info = read_dataset_info(shards)
        if self.folds and self.folds != len(info.folds):
            raise InputError(f"{shards} has {len(info.folds)} folds; convert with --folds")
        plain = dataclasses.asdict(self) | {
            "space": {name: dataclasses.asdict(domain) for name, domain in self.space.items()},
            "phantom": all(study.startswith("phantom-") for study in info.studies),
            "data": {name: facts["sha256"] for name, facts in sorted(info.shards.items())},
            "versions": {package: metadata.version(package) for package in PACKAGES},
        }
        return json.loads(json.dumps(plain))


def read_plan(folder: str | Path) -> dict:
    """The content of a search's `search.json`.

    Raises:
        InputError: There is none, or it is damaged.
    """
    path = Path(folder) / SEARCH
    if not path.is_file():
        raise InputError(f"{folder} is no search (it has no {SEARCH}); start one without --resume")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("it holds no object")
    except ValueError as error:
        raise InputError(f"{path} is damaged: {error}; begin anew with --overwrite") from error
    return content


def check_plan(folder: str | Path, content: dict) -> None:
    """Refuse to go on with another search.

    Raises:
        InputError: The folder's search differs; the message names how.
    """
    before = read_plan(folder)
    # The default differs where the base does, and need not be named as well.
    changed = [key for key in content if before.get(key) != content[key]]
    changed = [key for key in changed if key != "default" or "base" not in changed]
    differences = [
        text for key in changed for text in _differences(key, before.get(key), content[key])
    ]
    if differences:
        raise InputError(
            f"{folder} was started with {'; '.join(differences[:4])}; go on with the same, choose "
            "another --run, or begin anew with --overwrite"
        )


def _differences(key, then, now):
    if then == now:
        return []
    if key == "data":
        return ["another cohort (the checksums of the shards differ)"]
    if isinstance(then, dict) and isinstance(now, dict):
        names = sorted(set(then) | set(now))
        title = {"base": "", "default": "default "}.get(key, f"{key} ")
        return [
            difference
            for name in names
            for difference in _differences(f"{title}{name}", then.get(name), now.get(name))
        ]
    return [f"another {key} ({_plain(then)} then, {_plain(now)} now)"]


def _plain(value):
    return "none" if value is None else str(value)


def check_search(shards, plan: Plan, trials: int) -> None:
    """Refuse what would fail in every trial.

    Raises:
        InputError: It says what.
    """
    from strokeseg_tf.pipeline import usable_studies

    if trials < 1:
        raise InputError(f"--trials must be at least 1, received {trials}")
    training = plan.base.training
    views = [f"fold{k}" for k in range(plan.folds)] or [None]
    for view in views:
        split = f"{view}-train" if view else training.train_split
        usable_studies(shards, split, plan.modalities, training.rater)


def open_search(folder: str | Path, content: dict, *, resume=False, overwrite=False) -> None:
    """Begin a search, or check that the one that is there is this one.

    Raises:
        InputError: The folder is taken, or its search is another.
    """
    folder = Path(folder)
    if resume and (folder / SEARCH).is_file():
        check_plan(folder, content)
        return
    check_free(folder, overwrite, marker=SEARCH)
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    write_text(folder / SEARCH, json.dumps(content, indent=2) + "\n")
