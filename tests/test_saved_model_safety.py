"""A model is a program: one that could do harm is refused before it is loaded, or runs nothing."""

import json
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2
from test_serving import make_run

from strokeseg_tf.cli import main
from strokeseg_tf.loading import load_predictor
from strokeseg_tf.serving.export import export
from strokeseg_tf.serving.inspection import check_operations, inspect_saved_model
from tfrecord_tools.errors import InputError


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    run = make_run(
        tmp_path_factory.mktemp("run") / "run", variant="unimodal", filters=[2], image_size=8
    )
    return export(run.folder, tmp_path_factory.mktemp("served") / "strokeseg")


@pytest.fixture(scope="module")
def graph(served):
    """The export's own graph."""
    model = saved_model_pb2.SavedModel()
    model.ParseFromString((served / "saved_model.pb").read_bytes())
    return model


class Hostile(tf.Module):
    """Answers like an export, and does something else beside it."""

    def __init__(self, deed):
        super().__init__()
        self._deed = deed
        self.weight = tf.Variable(0.0)

    @tf.function(input_signature=[tf.TensorSpec((None, None, None), tf.float32, "adc")])
    def answer(self, adc):
        with tf.control_dependencies([self._deed()]):
            return {"adc_probability": tf.zeros_like(adc) + self.weight}

    def save(self, folder):
        tf.saved_model.save(self, str(folder), signatures=self.answer)
        return folder


DEEDS = {
    "WriteFile": lambda path: tf.io.write_file(str(path), "x"),
    "ReadFile": lambda path: tf.io.read_file(__file__),
    "MatchingFiles": lambda path: tf.io.matching_files("/*"),
    "EagerPyFunc": lambda path: tf.py_function(lambda: path.write_text("x"), [], tf.int64),
    "PyFunc": lambda path: tf.numpy_function(lambda: path.write_text("x"), [], tf.int64),
    "PrintV2": lambda path: tf.print("x", output_stream=f"file://{path}"),
    "SaveV2": lambda path: tf.raw_ops.SaveV2(
        prefix=str(path), tensor_names=["x"], shape_and_slices=[""], tensors=[tf.zeros(1)]
    ),
    "RestoreV2": lambda path: tf.raw_ops.RestoreV2(
        prefix=str(path), tensor_names=["x"], shape_and_slices=[""], dtypes=[tf.float32]
    )[0],
    "T.*Dataset": lambda path: tf.data.TextLineDataset(__file__).reduce(
        tf.constant(0), lambda total, line: total + tf.strings.length(line)
    ),
    "ImmutableConst": lambda path: tf.raw_ops.ImmutableConst(
        dtype=tf.float32, shape=(1,), memory_region_name=str(path)
    ),
}


@pytest.mark.parametrize("operation", DEEDS)
def test_a_saved_model_that_touches_files_or_runs_python_is_not_loaded(tmp_path, operation):
    trace = tmp_path / "trace"
    folder = Hostile(lambda: DEEDS[operation](trace)).save(tmp_path / "m")
    with pytest.raises(InputError, match=f"holds the operation {operation}, "):
        load_predictor(folder)
    assert not list(tmp_path.glob("trace*"))


def test_the_files_of_these_tests_are_written_where_nobody_looks(tmp_path):
    """The control: loaded and run without the check, the model does write."""
    trace = tmp_path / "trace"
    folder = Hostile(lambda: DEEDS["WriteFile"](trace)).save(tmp_path / "m")
    tf.saved_model.load(str(folder)).signatures["serving_default"](adc=tf.zeros((1, 2, 2)))
    assert trace.read_text() == "x"


def test_what_runs_on_loading_alone_is_not_run(tmp_path):
    """A resource is created by a function of the model when it is loaded."""
    trace = tmp_path / "trace"

    class Resource(tf.saved_model.experimental.TrackableResource):
        def _create_resource(self):
            with tf.control_dependencies([tf.io.write_file(str(trace), "x")]):
                return tf.raw_ops.VarHandleOp(dtype=tf.float32, shape=())

    resource = Resource()
    handle = resource.resource_handle
    model = Hostile(lambda: tf.raw_ops.VarIsInitializedOp(resource=handle))
    model.resource = resource
    folder = model.save(tmp_path / "m")
    trace.unlink()
    tf.saved_model.load(str(folder))
    assert trace.exists(), "the control: loading it does write"
    trace.unlink()
    with pytest.raises(InputError, match="WriteFile"):
        load_predictor(folder)
    assert not trace.exists()


def write(model, folder):
    folder.mkdir()
    (folder / "saved_model.pb").write_bytes(model.SerializeToString())
    return folder


def copy_of(graph):
    copy = saved_model_pb2.SavedModel()
    copy.CopyFrom(graph)
    return copy, copy.meta_graphs[0].graph_def


def saver_of(graph_def, word):
    return next(f for f in graph_def.library.function if word in f.signature.name)


def test_an_export_of_our_own_passes(served, graph, tmp_path):
    check_operations(served)
    check_operations(write(graph, tmp_path / "same"))


@pytest.mark.parametrize(("word", "operation"), [("save", "SaveV2"), ("restore", "RestoreV2")])
def test_the_saver_is_the_savers_alone(graph, tmp_path, word, operation):
    copy, graph_def = copy_of(graph)
    name = saver_of(graph_def, f"_traced_{word}").signature.name
    signature = next(f for f in graph_def.library.function if "signature" in f.signature.name)
    signature.node_def.add(name="x", op="PartitionedCall").attr["f"].func.name = name
    with pytest.raises(InputError, match="operation (SaveV2|RestoreV2|ShardedFilename|MergeV2)"):
        check_operations(write(copy, tmp_path / "called_elsewhere"))


def test_weights_are_restored_from_their_own_file_only(graph, tmp_path):
    copy, graph_def = copy_of(graph)
    restore = saver_of(graph_def, "_traced_restore")
    next(n for n in restore.node_def if n.op == "RestoreV2").input[0] = "elsewhere:output:0"
    with pytest.raises(InputError, match="RestoreV2"):
        check_operations(write(copy, tmp_path / "m"))


def test_restoring_writes_nothing(graph, tmp_path):
    copy, graph_def = copy_of(graph)
    saver_of(graph_def, "_traced_restore").node_def.add(name="x", op="SaveV2")
    with pytest.raises(InputError, match="SaveV2"):
        check_operations(write(copy, tmp_path / "m"))


def test_an_operation_that_tensorflow_does_not_know_is_refused(graph, tmp_path):
    copy, graph_def = copy_of(graph)
    graph_def.node.add(name="x", op="OfSomeLibrary")
    with pytest.raises(InputError, match="OfSomeLibrary"):
        check_operations(write(copy, tmp_path / "m"))


@pytest.mark.parametrize("name", ["saved_model.pbtxt", "saved_model.cpb"])
def test_only_one_graph_lies_in_a_folder(graph, tmp_path, name):
    folder = write(graph, tmp_path / "m")
    (folder / name).write_text("")
    with pytest.raises(InputError, match=name):
        check_operations(folder)


def test_a_damaged_graph_is_said_so(tmp_path):
    (tmp_path / "saved_model.pb").write_bytes(b"\xff" * 50)
    with pytest.raises(InputError, match="saved_model.pb cannot be loaded"):
        load_predictor(tmp_path)


def test_a_stranger_is_warned_of_on_standard_error(tmp_path, capsys):
    folder = Hostile(tf.no_op).save(tmp_path / "m")
    predictor = load_predictor(folder)
    printed = capsys.readouterr()
    assert "unknown origin" in printed.err and "people you trust" in printed.err
    assert printed.err.count("\n") == 1 and not printed.out
    assert predictor.predict({"adc": np.ones((1, 4, 4), np.float32)})["adc"].shape == (1, 4, 4)


def test_an_export_is_loaded_without_a_word_and_a_changed_one_with_a_warning(served, capsys):
    inspect_saved_model(served)
    assert not capsys.readouterr().err
    card = served / "MODEL_CARD.md"
    before = card.read_bytes()
    card.write_text("Approved for clinical use.")
    try:
        inspect_saved_model(served)
    finally:
        card.write_bytes(before)
    assert "changed: MODEL_CARD.md" in capsys.readouterr().err


@keras.saving.register_keras_serializable("strokeseg_tf_tests")
class Registered(keras.layers.Layer):
    """Registered here, but not in the process that loads."""

    def call(self, x):
        return x


def nested_lambda(path):
    inner = keras.Sequential([keras.Input((4,)), keras.layers.Lambda(lambda x: x + 1)])
    inputs = keras.Input((4,))
    return keras.Model(inputs, inner(inputs))


def with_config(path, entry):
    """A `.keras` file in whose configuration a layer is replaced by `entry`."""
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)]).save(path)
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(parts["config.json"])
    config["config"]["layers"][1] = entry
    parts["config.json"] = json.dumps(config)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)


def calling(module, name, argument):
    """What a configuration looks like that has Keras call a function of any module."""
    entry = {"module": module, "class_name": name, "registered_name": None}
    return [
        entry | {"config": {"args": [argument], "name": argument}},
        entry | {"class_name": "function", "config": name},
        {
            "module": "keras.layers",
            "class_name": "Activation",
            "config": {
                "activation": {"module": module, "class_name": "function", "config": name}
                | {"registered_name": name}
            },
            "registered_name": None,
        },
        {
            "module": "keras.layers",
            "class_name": "TFSMLayer",
            "config": {"filepath": argument, "call_endpoint": "serve"},
            "registered_name": None,
        },
    ]


def refused(path, capsys):
    image = path.with_name("adc.nii.gz")
    image.touch()  # The model is looked at before it.
    assert main(["predict", str(path), "--adc", str(image), "-o", str(path.parent / "out")]) == 2
    printed = capsys.readouterr()
    assert "cannot be loaded as a Keras model" in printed.err, printed.err
    assert printed.err.startswith("strokeseg-tf: error: ") and printed.err.count("\n") == 1


def test_a_lambda_deep_in_a_model_is_refused(tmp_path, capsys):
    path = tmp_path / "evil.keras"
    nested_lambda(path).save(path)
    refused(path, capsys)


def test_a_class_of_someone_elses_is_refused(tmp_path, capsys):
    path = tmp_path / "evil.keras"
    keras.Sequential([keras.Input((4,)), Registered()]).save(path)
    keras.saving.get_custom_objects().pop("strokeseg_tf_tests>Registered")
    refused(path, capsys)


@pytest.mark.parametrize("form", range(4))
@pytest.mark.parametrize(
    ("module", "name"), [("os", "system"), ("builtins", "exec"), ("evil_module", "Evil")]
)
def test_a_configuration_cannot_name_a_function_to_call(
    tmp_path, capsys, monkeypatch, module, name, form
):
    trace = tmp_path / "trace"
    body = f"open({str(trace)!r}, 'w').close()"
    Path(tmp_path / "evil_module.py").write_text(f"{body}\nclass Evil:\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    argument = {"system": f"touch {trace}", "exec": body, "Evil": str(trace)}[name]
    path = tmp_path / "evil.keras"
    with_config(path, calling(module, name, argument)[form])
    refused(path, capsys)
    assert not trace.exists()
