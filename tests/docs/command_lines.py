"""Command lines of the documentation: read by the real command line, checked for names, run in a small version."""

from __future__ import annotations

import functools
import inspect
import tomllib
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Any

import timm

import zsbir
from tests.docs.blocks import ROOT, Block
from zsbir import cli
from zsbir.cli._options import assignments
from zsbir.search.stores import STORES

Call = tuple[Callable[..., Any], dict[str, Any]]
SMALL: dict[str, dict[str, Any]] = {
    "train": {"epochs": 1, "samples_per_epoch": 4, "batch_size": 4, "workers": 0},
    "evaluate": {"resamples": 0, "html": False, "workers": 0, "no_baseline": True},
    "compare": {"permutations": 50, "resamples": 20},
    "index": {"workers": 1},
}
"""What is changed so that a command of the docs runs in a second."""
OTHERS = {".", "pip", "pytest", "python", "torchrun", "git", "cd", "bash", "pre-commit", "ruff", "mypy", "lint-imports",
          "sphinx-build", "codespell", "curl", "export", "accelerate", "tensorboard", "ln", "mv"}  # fmt: skip


def read(words: list[str], monkeypatch: Any) -> Call:
    """Return the function and the arguments that the command line makes of ``zsbir WORDS``, without running it."""
    calls: list[Call] = []

    def recorder(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def record(*args: Any, **kwargs: Any) -> None:
            bound = inspect.signature(function).bind(*args, **kwargs).arguments
            calls.append((function, {k: v for key, value in bound.items() for k, v in _flat(key, value).items()}))

        return record

    find = cli._command

    def command(name: str) -> Any:
        found = find(name)
        return {k: recorder(v) for k, v in found.items()} if isinstance(found, dict) else recorder(found)

    with monkeypatch.context() as patch:
        patch.setattr(cli, "_command", command)
        try:
            cli.main(words)
        except SystemExit as error:
            raise AssertionError(f"zsbir {' '.join(words)}: the command line does not take this") from error
    assert len(calls) == 1, f"zsbir {' '.join(words)}"
    return calls[0]


def _flat(key: str, value: Any) -> dict[str, Any]:
    """Return a group of options as the options, and another argument as it is."""
    return {item.name: getattr(value, item.name) for item in fields(value)} if is_dataclass(value) else {key: value}


def _grouped(function: Callable[..., Any], given: dict[str, Any]) -> dict[str, Any]:
    """Return the options as the function takes them: those of a group in it."""
    whole: dict[str, Any] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        group = parameter.default
        if is_dataclass(group) and not isinstance(group, type):
            whole[name] = replace(group, **{f.name: given[f.name] for f in fields(group) if f.name in given})
        elif name in given:
            whole[name] = given[name]
    return whole


def options(function: Callable[..., Any]) -> list[str]:
    """Return the names of a command's options, those in groups included."""
    parameters = inspect.signature(function).parameters.items()
    return [option for name, parameter in parameters for option in _flat(name, parameter.default)]


def check_names(call: Call) -> None:
    """Assert that what a command line names exists: methods, datasets, backbones, matchers, their arguments."""
    function, given = call
    registries = {"dataset": zsbir.DATASETS, "matcher": zsbir.MATCHERS, "store": STORES}
    for key, registry in registries.items():
        value = given.get(key)
        for name in () if value is None else value if isinstance(value, tuple) else (value,):
            assert name in registry, name
    if given.get("backbone") is not None:
        assert given["backbone"] in zsbir.BACKBONES or timm.is_model(given["backbone"]), given["backbone"]
    names = given.get("protocol", ())
    for name in (names,) if isinstance(names, str) else names:
        assert name in zsbir.PROTOCOLS, name
    if function.__name__ == "train" and given.get("method"):
        assert assignments(given["set"], "").keys() <= zsbir.METHODS.parameters(given["method"]).keys(), given["set"]
        assert (
            assignments(given["set_data"], "").keys()
            <= zsbir.DATASETS.parameters(given["dataset"] or "openmoji").keys()
        )
        words = given["recipe"]
        if words and "=" not in words[0]:
            assert words[0] in zsbir.METHODS.get(given["method"]).recipes
            words = words[1:]
        assert assignments(words, "").keys() <= {field.name for field in fields(zsbir.Recipe)}


def run_small(call: Call) -> None:
    """Run a command with its arguments, but on less: fewer steps and small images."""
    function, given = call
    less = dict(SMALL.get(function.__name__, {}))
    if function.__name__ == "split":  # which the pages that only use one find there already
        given["output"].unlink(missing_ok=True)
    if function.__name__ == "train" and given.get("from_") is None:
        less["set"] = (*given["set"], "backbone.image_size=32")
    elif function.__name__ == "train":
        less = {"workers": 0}  # the rest is that run's, which was small as well
    assert function(**_grouped(function, {**given, **less})) in (None, 0), f"{function.__name__} {given}"


def check_other(words: list[str], block: Block) -> None:
    """Assert that a command that is not zsbir's is a known one, and that the files and extras it names exist."""
    assert words[0] in OTHERS, f"{block}: {words[0]}"
    if words[0] == "python" and words[1].endswith(".py"):
        assert any((ROOT / folder / words[1]).is_file() for folder in ("", "examples")), f"{block}: {words[1]}"
    if words[0] == "pip":
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        for word in words:
            if "[" in word:
                named = word[word.index("[") + 1 : word.index("]")].split(",")
                assert set(named) <= project["optional-dependencies"].keys(), f"{block}: {word}"
