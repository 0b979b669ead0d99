"""The run folder: what was used, written in full."""

from __future__ import annotations

import datetime
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch

import zsbir
from zsbir.data import DATASETS
from zsbir.data.base import Dataset
from zsbir.engine.lora import Lora
from zsbir.engine.speed import Speed
from zsbir.errors import ZsbirError
from zsbir.files import read_json, write_json
from zsbir.methods.base import Method, Recipe
from zsbir.registry import spec_of


def refuse_taken(folder: Path) -> None:
    """Raise ZsbirError if `folder` is a file or holds something: nothing is ever overwritten."""
    if folder.is_file():
        raise ZsbirError(f"the run folder {folder} is a file: choose another with --out")
    if folder.is_dir() and any(folder.iterdir()):
        what = "already holds a run" if (folder / "run.json").is_file() else "is not empty"
        raise ZsbirError(f"the run folder {folder} {what}: choose another with --out, or continue it with --resume")


def claim(folder: Path) -> None:
    """Make a new folder; one that already holds something is refused.

    Raises:
        ZsbirError: If the folder holds files, or cannot be made.
    """
    refuse_taken(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".probe"
        probe.write_bytes(b"0" * 4096)
        probe.unlink()
    except OSError as error:
        raise ZsbirError(f"the run folder {folder} cannot be written: {error.strerror or error}") from error


def describe(
    method: Method, dataset: Dataset, recipe: Recipe, seed: int, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what ``run.json`` holds: everything that is needed to repeat the run."""
    return {
        "zsbir": zsbir.__version__,
        "method": spec_of(method),
        "dataset": spec_of(dataset),
        "dataset_manifest": getattr(dataset, "manifest_hash", None),
        "dataset_notes": list(dataset.notes),
        "classes": {
            "train": list(dataset.train.classes),
            "validation": list(dataset.validation.classes),
            "test": list(dataset.test.classes),
        },
        "recipe": asdict(recipe),
        "seed": seed,
        "settings": dict(settings),
        "command": shlex.join(sys.argv),
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "git": _revision(),
        "host": {"python": platform.python_version(), "system": platform.system(), "machine": platform.machine()},
        "versions": {"torch": torch.__version__, "timm": timm.__version__, "numpy": np.__version__},
    }


def read_run(folder: Path) -> dict[str, Any]:
    """Read ``run.json`` of a run folder.

    Raises:
        ZsbirError: If the folder holds no run, or its record is incomplete.
    """
    if not (folder / "run.json").is_file():
        what = "holds no run (no run.json)" if folder.is_dir() else "does not exist"
        raise ZsbirError(f"{folder} {what}: give the folder that `zsbir train` wrote")
    run: dict[str, Any] = read_json(folder / "run.json")
    needed = ("method", "dataset", "recipe", "seed", "settings")
    missing = [key for key in needed if not isinstance(run, dict) or key not in run]
    if missing:
        raise ZsbirError(f"{folder / 'run.json'} is no record of a run of `zsbir train`: it lacks {', '.join(missing)}")
    return run


def settings_of(run: Mapping[str, Any], workers: int | None = None) -> dict[str, Any]:
    """Return a run's settings as `Trainer` takes them, with other `workers` if given."""
    settings = {k: v for k, v in run["settings"].items() if k != "processes"}
    settings["workers"] = settings["workers"] if workers is None else workers
    return {**settings, "speed": Speed.of(settings["speed"])}


def dataset_of(run: Mapping[str, Any], root: str | Path | None = None) -> Dataset:
    """Return a run's dataset; `root` says where its folder is now, if it was moved."""
    return DATASETS.build(run["dataset"], **({} if root is None else {"root": str(root)}))


def write_run(folder: Path, run: Mapping[str, Any]) -> None:
    """Write ``run.json``."""
    write_json(folder / "run.json", run)


def recipe_from(values: Mapping[str, Any], start: Recipe | None = None) -> Recipe:
    """Return `start` (or the defaults) with some values replaced.

    Raises:
        ZsbirError: For a setting that a recipe does not have, with the close matches, or a value out of range.
    """
    merged = {**asdict(start or Recipe()), **values}
    if isinstance(merged["freeze"], str):
        merged["freeze"] = (merged["freeze"],)
    recipe = Recipe(**merged)
    if recipe.lora is not None:
        Lora.of(recipe.lora)  # a wrong setting is said now
    return replace(recipe, freeze=tuple(recipe.freeze))


def _revision() -> str | None:
    try:
        out = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return out.stdout.strip() or None
