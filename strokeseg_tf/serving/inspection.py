"""What a SavedModel would do, read from its file before any of it is loaded.

A SavedModel is a program: its graph may read and write files, run Python or reach other machines.
An export of this package does none of that, so a model that would is not loaded.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow.python.framework import op_def_registry

from strokeseg_tf.console import remark
from strokeseg_tf.serving.layout import (
    DESCRIPTION,
    SAVED_MODEL,
    file_differences,
    read_description,
)
from tfrecord_tools.errors import InputError

#: Other forms of the same file, which TensorFlow or TensorFlow Serving might read instead.
_OTHER_FORMS = ("saved_model.pbtxt", "saved_model.cpb")

#: The operations with an effect outside of their outputs that inference needs: variables,
#: control flow, checks. TensorFlow's registry says which operations have one (`is_stateful`).
_EFFECTS = frozenset(
    {
        "Assert", "CheckNumerics", "CheckNumericsV2",
        "Case", "If", "StatefulPartitionedCall", "While",
        "AssignVariableOp", "DisableCopyOnRead", "ReadVariableOp", "VarHandleOp",
        "VarIsInitializedOp", "VariableShape",
    }
)  # fmt: skip
#: Operations that the registry calls free of effects although they read files or file systems
#: (`DecodeProtoV2` reads a descriptor), write them (`DebugIdentity`), run Python, end the process
#: or reach other devices.
_REFUSED = re.compile(
    "Abort|Dataset|Iterator|File|PyFunc|Snapshot|ImmutableConst|VocabRemapping|^Reader|^Debug|"
    "^(De|En)code(Proto|JSON)|TPU|^Copy"
)
_SAVES = frozenset({"MergeV2Checkpoints", "SaveV2", "ShardedFilename"})
_RESTORES = frozenset({"RestoreV2"})


def inspect_saved_model(folder: str | Path) -> None:
    """Refuse a SavedModel that could do harm, and warn of one that this package did not write.

    Args:
        folder: A version's folder.

    Raises:
        InputError: `saved_model.pb` or the description is damaged, or the graph holds an operation
            that touches files, runs Python or reaches other machines.
    """
    folder = Path(folder)
    check_operations(folder)
    if warning := _doubt(folder):
        remark(
            f"warning: {warning}; a SavedModel is a program: load only those that come from "
            "people you trust"
        )


def _doubt(folder: Path) -> str | None:
    """What there is to doubt about a model, or None."""
    described = (folder / DESCRIPTION).exists()
    files = read_description(folder).get("files") if described else None
    if not isinstance(files, dict):
        return f"{folder} is a SavedModel of unknown origin (no checksums of strokeseg-tf export)"
    if differences := file_differences(folder, files):
        return f"{folder} is not as it was exported ({'; '.join(differences)})"
    return None


def check_operations(folder: str | Path) -> None:
    """Refuse operations that have no place in a segmentation model.

    Raises:
        InputError: See `inspect_saved_model`; the sentence names the operation.
    """
    folder = Path(folder)
    for name in _OTHER_FORMS:
        if (folder / name).exists():
            raise InputError(
                f"{folder} holds {name} beside {SAVED_MODEL}, so that it is not certain what "
                "would be loaded; export the run anew"
            )
    path = folder / SAVED_MODEL
    model = saved_model_pb2.SavedModel()
    try:
        model.ParseFromString(path.read_bytes())
    except DecodeError as error:
        raise InputError(f"{path} cannot be loaded as a SavedModel ({error})") from error
    for graph in model.meta_graphs:
        for operation in _refused(graph):
            raise InputError(
                f"{path} holds the operation {operation}, which no export of strokeseg-tf does: "
                "it may touch files or run programs, so the model is not loaded; use an export "
                "from someone you trust"
            )


def _refused(graph) -> Iterator[str]:
    """The operations of a meta graph that are not allowed where they stand."""
    functions = {f.signature.name: f for f in graph.graph_def.library.function}
    savers = _saver_functions(graph, functions)
    bodies = {"": graph.graph_def.node} | {n: f.node_def for n, f in functions.items()}
    for name, nodes in bodies.items():
        allowed = savers.get(name, frozenset())
        for node in nodes:
            if node.op in functions or _is_harmless(node.op):
                continue
            if node.op not in allowed or not _stays_in_place(node, functions[name]):
                yield node.op


def _is_harmless(operation: str) -> bool:
    known = op_def_registry.get(operation)
    if known is None or _REFUSED.search(operation):
        return False
    return not known.is_stateful or operation in _EFFECTS


def _stays_in_place(node, function) -> bool:
    """Whether weights are restored from where the caller says, and not from elsewhere."""
    if node.op not in _RESTORES:
        return True
    return node.input[0] in {argument.name for argument in function.signature.input_arg}


def _saver_functions(graph, functions) -> dict[str, frozenset[str]]:
    """The two functions that write and read the variables, and what each may do beyond others.

    They are the ones that `saver_def` names, and only where nothing else calls them.
    """
    saver = graph.saver_def
    roles = {
        saver.save_tensor_name.partition(":")[0]: _SAVES,
        saver.restore_op_name: _RESTORES,
    }
    found, called = {}, set(graph.object_graph_def.concrete_functions)
    for node in graph.graph_def.node:
        names = _called_by(node)
        if node.name in roles and node.op == "StatefulPartitionedCall":
            found.update(dict.fromkeys(names, roles[node.name]))
        else:
            called |= names
    for function in functions.values():
        for node in function.node_def:
            called |= _called_by(node)
    return {name: role for name, role in found.items() if name not in called}


def _called_by(node) -> set[str]:
    """Names of the functions that a node calls."""
    names = {node.op}
    for value in node.attr.values():
        names.add(value.func.name)
        names |= {function.name for function in value.list.func}
    return names - {""}
