"""Who may import whom, read from the source with `ast`."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("tfrecord_tools", "strokeseg_tf", "tuning")


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {module_name(p): p for room in ROOMS for p in sorted((ROOT / room).rglob("*.py"))}


def imports(module, top_only=False):
    """Names of the modules that a module imports, at its top or anywhere in it."""
    names = set()
    tree = ast.parse(SOURCES[module].read_text(encoding="utf-8"))
    for node in ast.iter_child_nodes(tree) if top_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import"
            full = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {node.module} | (full & SOURCES.keys())
    return names


def packages(names):
    return {name.partition(".")[0] for name in names}


def foreign(names):
    """Packages that are neither ours nor of the standard library."""
    return packages(names) - set(ROOMS) - sys.stdlib_module_names


def loaded_with(module):
    """Everything that importing a module imports, through our own modules."""
    found, waiting = set(), {module}
    while waiting:
        name = waiting.pop()
        found.add(name)
        if name in SOURCES:
            parents = {name.rpartition(".")[0]} & SOURCES.keys()
            waiting |= (imports(name, top_only=True) | parents) - found
    return found


def modules_of(*prefixes):
    return [m for m in SOURCES if any(m == p or m.startswith(f"{p}.") for p in prefixes)]


@pytest.mark.parametrize("module", SOURCES)
def test_rooms_import_only_what_lies_below_them(module):
    allowed = ROOMS[: ROOMS.index(module.partition(".")[0]) + 1]
    assert packages(imports(module)) & set(ROOMS) <= set(allowed)


@pytest.mark.parametrize(
    "module",
    modules_of(*(f"strokeseg_tf.{m}" for m in ("models", "losses", "metrics", "optimiser"))),
)
def test_what_runs_on_every_backend_imports_keras_alone(module):
    names = imports(module)
    assert foreign(names) <= {"keras"}
    assert foreign(loaded_with(module)) <= {"keras"}


def test_the_configuration_imports_the_standard_library_alone():
    assert packages(loaded_with("strokeseg_tf.config")) <= sys.stdlib_module_names | {
        "strokeseg_tf"
    }


@pytest.mark.parametrize("module", modules_of("tfrecord_tools"))
def test_data_on_disk_knows_no_network(module):
    assert "keras" not in packages(imports(module))


def test_only_the_demo_imports_the_command_line():
    assert {m for m in SOURCES if "strokeseg_tf.cli" in imports(m)} <= {"strokeseg_tf.demo"}


@pytest.mark.parametrize("module", [m for m, p in SOURCES.items() if p.name == "__init__.py"])
def test_packages_import_nothing_heavy(module):
    assert not foreign(loaded_with(module))


@pytest.mark.parametrize(
    "module", ["strokeseg_tf.cli", *modules_of("strokeseg_tf.commands", "tuning.command")]
)
def test_the_command_line_imports_nothing_heavy_at_its_top(module):
    assert not foreign(loaded_with(module))
