"""A run folder: what training leaves behind, and how to load a model from it."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

from strokeseg_tf.config import Config
from strokeseg_tf.prediction.familiarity import check_ranges
from tfrecord_tools.atomic import write_text
from tfrecord_tools.errors import InputError


@dataclasses.dataclass(frozen=True)
class Run:
    """The files of a run folder."""

    folder: Path

    @property
    def config_file(self) -> Path:
        """Every setting, resolved."""
        return self.folder / "config.json"

    @property
    def model_file(self) -> Path:
        """The best weights."""
        return self.folder / "model.keras"

    @property
    def history_file(self) -> Path:
        """A row an epoch."""
        return self.folder / "history.csv"

    @property
    def environment_file(self) -> Path:
        """Software, machine and data of the run."""
        return self.folder / "environment.json"

    @property
    def curves_file(self) -> Path:
        """The learning curves as a picture."""
        return self.folder / "curves.png"

    @property
    def logs(self) -> Path:
        """TensorBoard."""
        return self.folder / "logs"

    @property
    def checkpoints(self) -> Path:
        """State after the last epoch of the history."""
        return self.folder / "checkpoints"

    @property
    def threshold_file(self) -> Path:
        """The threshold that validation chose, where it was left to it."""
        return self.folder / "threshold.json"

    @property
    def training_data_file(self) -> Path:
        """What the training studies look like."""
        return self.folder / "training_data.json"

    def write_training_data(self, summary: dict) -> None:
        """Write `training_data.json`; see `strokeseg_tf.prediction.training_data`."""
        write_text(self.training_data_file, json.dumps(summary, indent=2) + "\n")

    def read_training_data(self) -> dict | None:
        """What the training studies look like; None where an older version trained the run.

        Raises:
            InputError: The file is damaged.
        """
        if not self.training_data_file.is_file():
            return None
        return _read_checked(self.training_data_file, check_ranges)

    def write_threshold(self, choice: dict) -> None:
        """Write `threshold.json`; see `strokeseg_tf.threshold.choose_threshold`."""
        write_text(self.threshold_file, json.dumps(choice, indent=2) + "\n")

    def read_threshold(self) -> float:
        """The probability above which this run calls a voxel lesion.

        Raises:
            InputError: This is no run folder, or a file of it is damaged.
        """
        if not self.threshold_file.is_file():
            return self.read_config().training.metric_threshold
        return _read_checked(self.threshold_file, _check_threshold)["threshold"]

    def read_environment(self) -> dict | None:
        """Software, machine and data of the run; None where that was never written.

        Raises:
            InputError: The file is damaged.
        """
        if not self.environment_file.is_file():
            return None
        return _read_checked(self.environment_file, lambda content: content["data"]["shards"])

    def write_config(self, config: Config) -> None:
        """Write `config.json`."""
        write_text(self.config_file, json.dumps(config.to_dict(), indent=2) + "\n")

    def read_config(self) -> Config:
        """Read `config.json`.

        Raises:
            InputError: This is no run folder, or the file is damaged.
        """
        if not self.config_file.is_file():
            raise InputError(
                f"{self.folder} is no run folder (it has no {self.config_file.name}); "
                "name a folder that strokeseg-tf fit wrote"
            )
        try:
            return Config().replace(**json.loads(self.config_file.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise InputError(f"{self.config_file} is damaged: {error}") from error


def _read_checked(path: Path, check: Callable[[dict], object]) -> dict:
    """The content of a JSON file.

    Args:
        path: File that is there.
        check: Raises one of the errors below where the content cannot be what was written.

    Raises:
        InputError: It is damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        check(content)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{path} is damaged: {error}") from error
    return content


def _check_threshold(content):
    if not 0 < content["threshold"] < 1:
        raise ValueError(f"{content['threshold']} is no probability")


def load_network(path: str | Path):
    """Load a `.keras` file with Keras's safe mode on: nothing in it is executed.

    Raises:
        InputError: The file is missing, damaged, or holds custom code.
    """
    import keras

    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} does not exist; train a model with strokeseg-tf fit")
    try:
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except (ValueError, TypeError, OSError, KeyError) as error:
        reason = " ".join(str(error).split())[:160]
        raise InputError(f"{path} cannot be loaded as a Keras model ({reason})") from error
