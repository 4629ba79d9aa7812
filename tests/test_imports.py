"""Who may import whom. Read from the source by `ast`, so that nothing is imported to find out."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ORDER = (
    "job",
    "world",
    "data",
    "kernels",
    "model",
    "gradients",
    "step",
    "checkpoint",
    "log",
    "report",
    "keras",
    "train",
    "use",
    "launcher",
    "bench",
    "cli",
)
LAYERS = {
    "distrain": 0,
    "distrain.errors": 0,
    "distrain.nearest": 0,
    "distrain.factory": 1,
    "distrain.__main__": len(ORDER) + 2,
} | {f"distrain.{name}": number for number, name in enumerate(ORDER, start=2)}
LAUNCHER_MAY = {"distrain", *(f"distrain.{name}" for name in ("errors", "launcher", "job", "world", "log"))}
HEAVY = {"tensorflow", "keras", "horovod", "mpi4py"}
LIGHT = (
    *("errors", "nearest", "factory", "job", "data", "report", "launcher", "cli"),
    *(f"world.{name}" for name in ("start", "control", "quick_import", "topology", "versions")),
    *("use.saved", "checkpoint.store", "log.records", "log.folder", "log.terminal", "log.parts", "log.gradient_table"),
    *("log.backlog", "log.follow", "log.tracking"),
    *("log.gradient_plots", *(f"gradients.{name}" for name in ("measures", "advice", "attention", "rank_comparison"))),
)


def _name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {_name(path): path for path in sorted((ROOT / "distrain").rglob("*.py"))}


def _nodes(node: ast.AST, *, functions: bool) -> Iterator[ast.Import | ast.ImportFrom]:
    """The import statements under a node; those in functions, which run later, only where asked for."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) and not functions:
            continue
        elif not (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)):
            yield from _nodes(child, functions=functions)


def _imported(module: str, *, functions: bool) -> set[str]:
    """The modules that a module names in its imports."""
    path = MODULES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found = set()
    for node in _nodes(ast.parse(path.read_text(encoding="utf-8")), functions=functions):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
            continue
        above = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1]) if node.level else ""
        base = ".".join(filter(None, (above, node.module)))
        for alias in node.names:
            found.add(f"{base}.{alias.name}" if f"{base}.{alias.name}" in MODULES else base)
    return found


def _package(module: str) -> str:
    return module if module in LAYERS else ".".join(module.split(".")[:2])


def _loaded_with(module: str) -> set[str]:
    """All that importing a module imports, other projects' packages by their first name."""
    seen: set[str] = set()
    waiting = {module}
    while waiting:
        name = waiting.pop()
        seen.add(name)
        if name in MODULES:
            parents = {name.rsplit(".", depth)[0] for depth in range(1, name.count(".") + 1)}
            named = _imported(name, functions=False)
            waiting |= (parents | {other if other in MODULES else other.split(".")[0] for other in named}) - seen
    return seen


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_its_own_package_and_what_stands_before_it(module: str) -> None:
    own = _package(module)
    for other in _imported(module, functions=True):
        if other.split(".")[0] != "distrain":
            continue
        assert other in MODULES, f"{other} is no module"
        assert _package(other) == own or LAYERS[_package(other)] < LAYERS[own], f"{module} imports {other}"


@pytest.mark.parametrize("module", [name for name in MODULES if _package(name) == "distrain.launcher"])
def test_the_launcher_imports_no_more_than_it_needs(module: str) -> None:
    ours = {_package(other) for other in _imported(module, functions=True) if other.startswith("distrain")}
    assert ours <= LAUNCHER_MAY


# bench.bare is what a program without distrain does.
WITHOUT_HOROVOD = [name for name in MODULES if _package(name) != "distrain.world" and name != "distrain.bench.bare"]


@pytest.mark.parametrize("module", WITHOUT_HOROVOD)
def test_world_alone_imports_horovod_and_mpi(module: str) -> None:
    assert not {other.split(".")[0] for other in _imported(module, functions=True)} & {"horovod", "mpi4py"}


@pytest.mark.parametrize("light", LIGHT)
def test_what_is_needed_before_training_loads_without_tensorflow(light: str) -> None:
    prefix = f"distrain.{light}"
    modules = [name for name in MODULES if name == prefix or name.startswith(prefix + ".")]
    assert modules
    assert {module: _loaded_with(module) & HEAVY for module in modules} == {module: set() for module in modules}


def test_the_walk_sees_what_comes_through_others() -> None:
    assert "tensorflow" in _loaded_with("distrain.step.train_step")
    assert {"tensorflow", "keras"} <= _loaded_with("distrain.checkpoint.saver")  # names neither itself
    assert "mpi4py" in {other.split(".")[0] for other in _imported("distrain.world.start", functions=True)}
