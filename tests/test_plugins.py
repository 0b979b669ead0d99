"""A separate pip package is found by name, with no import by the user; a broken one breaks nothing."""

import inspect
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import zsbir

PLUGIN = Path(__file__).parents[1] / "examples" / "plugin_package"


def _install(folder: Path, *, broken: bool = False) -> dict[str, str]:
    """Lay the package out as pip would: its code and its entry points; returns the environment that sees it."""
    import os
    import shutil

    shutil.copytree(PLUGIN / "zsbir_example_plugin", folder / "zsbir_example_plugin")
    if broken:
        (folder / "zsbir_example_plugin" / "__init__.py").write_text("import there_is_no_such_module\n")
    info = folder / "zsbir_example_plugin-0.1.0.dist-info"
    info.mkdir()
    project = tomllib.loads((PLUGIN / "pyproject.toml").read_text())["project"]
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    lines = []
    for group, entries in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in entries.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    return {**os.environ, "PYTHONPATH": str(folder)}


def _python(code: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)


def test_plugin_is_found_and_built_by_name(tmp_path):
    code = """
import json, zsbir
names = zsbir.list()
dataset = zsbir.DATASETS.build("shapes", samples=2)
masker = zsbir.MASKERS.build("checkerboard", first=False)
import torch
kept = masker(zsbir.MaskRequest(torch.zeros(2, 3, 8, 8), ["a", "b"], (2, 2)))
print(json.dumps([names["maskers"]["checkerboard"], len(dataset.test.photos), masker.spec, kept.tolist()]))
"""
    done = _python(code, _install(tmp_path))
    assert done.returncode == 0, done.stderr
    summary, photos, spec, kept = json.loads(done.stdout)
    assert summary.startswith("plugin zsbir_example_plugin")
    assert photos == 4
    assert spec == {"name": "checkerboard", "first": False}
    assert kept == [[False, True, True, False]] * 2


def test_broken_plugin_is_named_and_breaks_nothing(tmp_path):
    code = """
import zsbir
try:
    zsbir.MASKERS.build("checkerboard")
except zsbir.ZsbirError as error:
    print(error)
print(zsbir.MASKERS.build("random").spec["name"])
"""
    done = _python(code, _install(tmp_path, broken=True))
    assert done.returncode == 0, done.stderr
    assert "There is no masker 'checkerboard'" in done.stdout
    assert done.stdout.splitlines()[-1] == "random"
    assert "'checkerboard'" in done.stderr
    assert "there_is_no_such_module" in done.stderr


def test_plugins_of_the_repository_are_listed_with_their_docstrings():
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]
    for group, entries in project["entry-points"].items():
        registry = getattr(zsbir, group.removeprefix("zsbir.").upper())
        for name, value in entries.items():
            found = registry.get(name)
            assert f"{found.__module__}:{found.__qualname__}" == value
            assert registry.describe()[name] == inspect.getdoc(found).split("\n")[0]
            with pytest.raises(zsbir.ZsbirError, match=f"Did you mean '{name}'"):
                registry.get(f"{name}x")


@pytest.mark.parametrize("code", ["import zsbir", "import zsbir; zsbir.list()"])
def test_names_cost_no_torch(code):
    import os

    done = _python(f"{code}\nimport sys; print('torch' in sys.modules)", dict(os.environ))
    assert done.stdout.strip() == "False", done.stderr
