"""No module of zsbir imports, at its top, in a function or for type checkers, one that leads back to it."""

import ast
import graphlib
from pathlib import Path

import pytest

import zsbir

ROOT = Path(zsbir.__file__).parents[1]


def sources():
    for path in sorted((ROOT / "zsbir").rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        yield name.removesuffix(".__init__"), path


def for_type_checkers(node):
    return isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"


def imported(tree, modules):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom) and node.module in modules:
            names = (f"{node.module}.{alias.name}" for alias in node.names)
            yield from (name if name in modules else node.module for name in names)


def graph(modules):
    found = {}
    for name, text in modules.items():
        tree = ast.parse(text)
        if name in PACKAGES:  # a registry names the class of its components, and the facade what it gives
            tree.body = [node for node in tree.body if not for_type_checkers(node)]
        found[name] = {other for other in imported(tree, modules) if other not in (name, "zsbir")}
    return found


PACKAGES = {name for name, path in sources() if path.stem == "__init__"}
MODULES = {name: path.read_text(encoding="utf-8") for name, path in sources()}


def test_there_is_no_circle():
    assert "zsbir.methods.base" in graph(MODULES)["zsbir.methods.dann"]
    graphlib.TopologicalSorter(graph(MODULES)).prepare()


@pytest.mark.parametrize(
    "line",
    [
        "from zsbir.methods.base import Method",
        "def f():\n    from zsbir.methods import base",
        "if TYPE_CHECKING:\n    import zsbir.methods.base",
    ],
)
def test_a_circle_is_found(line):
    changed = {**MODULES, "zsbir.methods.embedding": f"{MODULES['zsbir.methods.embedding']}\n{line}\n"}
    with pytest.raises(graphlib.CycleError, match=r"zsbir\.methods"):
        graphlib.TopologicalSorter(graph(changed)).prepare()
