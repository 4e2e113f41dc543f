"""MODEL as a user names it -> something that predicts studies."""

from pathlib import Path

from strokeseg_tf.prediction.engines import Computing, load_engine
from strokeseg_tf.prediction.ensemble import check_members, combine
from strokeseg_tf.prediction.network import NetworkPredictor
from strokeseg_tf.runs import Run
from strokeseg_tf.serving.endpoint import is_address, parse_endpoint
from strokeseg_tf.serving.layout import DESCRIPTION, read_description, versions_of
from tfrecord_tools.errors import InputError
from tfrecord_tools.study_files import MODALITIES


class SavedModelPredictor:
    """Predicts with an exported SavedModel, as `prediction.network.NetworkPredictor` does.

    Args:
        folder: A version's folder.
        threshold: Probability above which a voxel is lesion; by default the export's own.
    """

    #: See `prediction.network.NetworkPredictor`.
    parallel = 1

    def __init__(self, folder, *, threshold=None):
        import tensorflow as tf

        from strokeseg_tf.serving.inspection import inspect_saved_model

        inspect_saved_model(folder)
        try:
            # The loaded object owns the variables: it must live as long as its signature.
            self._model = tf.saved_model.load(str(folder))
            self._signature = self._model.signatures["serving_default"]
        except (OSError, ValueError, KeyError, tf.errors.OpError) as error:
            reason = " ".join(str(error).split())[:160]
            raise InputError(f"{folder} cannot be loaded as a SavedModel ({reason})") from error
        inputs = self._signature.structured_input_signature[1]
        self.modalities = tuple(m for m in MODALITIES if m in inputs)
        wanted = {f"{m}_probability" for m in self.modalities}
        if set(inputs) != set(self.modalities) or set(self._signature.structured_outputs) != wanted:
            raise InputError(
                f"{folder} is no model of this package: serving_default takes "
                f"{', '.join(inputs)}; name what strokeseg-tf export wrote"
            )
        self.training_data = None
        if (Path(folder) / DESCRIPTION).is_file():
            description = read_description(Path(folder))
            self.training_data = description.get("training_data")
            threshold = description["threshold"] if threshold is None else threshold
        self.threshold = 0.5 if threshold is None else threshold
        self.computed_by = f"TensorFlow {tf.__version__}, as exported"
        self.version = int(Path(folder).name) if Path(folder).name.isdecimal() else None

    def predict(self, images):
        """See `strokeseg_tf.prediction.network.NetworkPredictor.predict`."""
        from strokeseg_tf.prediction.inputs import check_study

        outputs = self._signature(**check_study(self.modalities, images))
        return {m: outputs[f"{m}_probability"].numpy() for m in self.modalities}


def load_predictor(model, *, threshold=None, connection=None, computing=None):
    """Load a run folder, a `.keras` file, a SavedModel folder, or reach a served model.

    Args:
        model: Path, of a folder of versions the highest is taken; or an address, see
            `strokeseg_tf.serving.endpoint`.
        threshold: Probability above which a voxel is lesion; by default the run's own, or 0.5.
        connection: `strokeseg_tf.serving.connection.Connection`, for an address alone.
        computing: `strokeseg_tf.prediction.engines.Computing`, for a run or a `.keras` file alone.

    Raises:
        InputError: It is none of these, or damaged, or nobody answers.
    """
    if is_address(model):
        _check_no_computing(model, computing)
        from strokeseg_tf.serving.remote import RemotePredictor

        endpoint = parse_endpoint(model)
        return RemotePredictor(endpoint, threshold=threshold, connection=connection)
    if connection is not None:
        raise InputError(
            f"{model} is a path: --deadline, --max-message-mb and --ca-file are for models on a "
            "server; leave them out"
        )
    path = Path(model)
    if (path / "saved_model.pb").is_file():
        _check_no_computing(path, computing)
        return SavedModelPredictor(path, threshold=threshold)
    if not path.exists():
        raise InputError(f"{path} does not exist; name a run folder, .keras file or SavedModel")
    if path.is_dir() and not Run(path).config_file.is_file():
        versions = versions_of(path)
        if not versions:
            raise InputError(
                f"{path} is neither a run folder (config.json) nor a SavedModel "
                "(saved_model.pb); name what strokeseg-tf fit or export wrote"
            )
        return load_predictor(path / str(versions[-1]), threshold=threshold, computing=computing)
    if path.is_dir():
        return _load_run(Run(path), threshold, computing)
    return _load_file(path, threshold, computing)


def _check_no_computing(model, computing):
    if computing not in (None, Computing()):
        raise InputError(
            f"{model} is an export, whose engine and precision are fixed: --engine and --precision "
            "are for run folders and .keras files; leave them out"
        )


def _load_run(run: Run, threshold, computing):
    augmentation = run.read_config().augmentation
    return _load_file(
        run.model_file,
        run.read_threshold() if threshold is None else threshold,
        computing,
        training_data=run.read_training_data(),
        flips=augmentation.flips if augmentation.probability else "none",
    )


def _load_file(path: Path, threshold, computing, **known):
    threshold = 0.5 if threshold is None else threshold
    return NetworkPredictor(load_engine(path, computing), threshold=threshold, **known)


def load_predictors(
    models, *, vote=False, mirrored=False, threshold=None, connection=None, computing=None
):
    """Load one model or several as one predictor; see `load_predictor` for each.

    Args:
        models: At least one.
        vote: See `strokeseg_tf.prediction.ensemble.Ensemble`, as for `mirrored`.
        mirrored: Predict each study in mirrors too.
        threshold: Probability above which a voxel is lesion; by default the mean of the models'
            own; in a vote that of each model.
        connection: See `load_predictor`.
        computing: See `load_predictor`.

    Raises:
        InputError: See `load_predictor`; a vote of fewer than three.
    """
    check_members(models, vote)
    given = {"threshold": threshold, "connection": connection, "computing": computing}
    members = [load_predictor(model, **given) for model in models]
    return combine(members, vote=vote, mirrored=mirrored)
