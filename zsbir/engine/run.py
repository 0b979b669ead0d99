"""The run folder: what was used, written in full."""

from __future__ import annotations

import datetime
import platform
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from filelock import FileLock, Timeout

import zsbir
from zsbir.data import DATASETS
from zsbir.data.base import Dataset
from zsbir.data.manifest import difference
from zsbir.engine.lora import Lora
from zsbir.engine.speed import Speed
from zsbir.errors import ZsbirError
from zsbir.files import read_json, reading, write_json
from zsbir.methods.base import Method, Recipe
from zsbir.registry import spec_of

MANIFEST = "dataset.json"


RECORD: dict[str, type | tuple[type, ...]] = {
    "method": (str, dict),
    "dataset": (str, dict),
    "recipe": dict,
    "seed": int,
    "settings": dict,
}
"""What ``run.json`` must hold."""


def refuse_taken(folder: Path, what: str = "run folder", instead: str = ", or continue it with --resume") -> None:
    """Raise ZsbirError if `folder` is a file or holds something: nothing is ever overwritten.

    Args:
        folder: What a command wants to fill.
        what: What it is to be, for the message.
        instead: What else can be done where it holds a run.
    """
    if folder.is_file():
        raise ZsbirError(f"the {what} {folder} is a file: choose another with --out")
    if folder.is_dir() and any(folder.iterdir()):
        held = (folder / "run.json").is_file()
        state = "already holds a run" if held else "is not empty"
        raise ZsbirError(f"the {what} {folder} {state}: choose another with --out{instead if held else ''}")


def claim(folder: Path, what: str = "run folder", instead: str = ", or continue it with --resume") -> None:
    """Make a new folder; raises ZsbirError as `refuse_taken`, and if it cannot be made."""
    refuse_taken(folder, what, instead)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".probe"
        probe.write_bytes(b"0" * 4096)
        probe.unlink()
    except OSError as error:
        raise ZsbirError(f"the {what} {folder} cannot be written: {error.strerror or error}") from error


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold a run folder for a block: one process trains a run at a time.

    Raises:
        ZsbirError: If another process holds it, or it cannot be written.
    """
    try:
        held = FileLock(folder / ".lock", timeout=0).acquire()
    except Timeout:
        raise ZsbirError(f"{folder} is being trained by another process: wait for its end, or stop it first") from None
    except OSError as error:
        raise ZsbirError(f"the run folder {folder} cannot be written: {error.strerror or error}") from error
    with held:
        yield


def discard(folder: Path) -> None:
    """Remove the folder of a run that failed before its first step, so that the same command can start again."""
    shutil.rmtree(folder, ignore_errors=True)


def refuse_other_data(run: Mapping[str, Any], dataset: Dataset, folder: Path) -> None:
    """Raise ZsbirError, with what changed, if a dataset is not the one that the run in `folder` began with."""
    if run.get("dataset_manifest") != dataset.manifest_hash:
        file = folder / MANIFEST
        changed = difference(read_json(file), dataset.manifest()) if file.is_file() else None
        raise ZsbirError(
            f"the dataset has changed since {folder} began ({changed or 'other files or classes'}), so going on would "
            "train on something else: bring it back, or start a new run with --from"
        )


def describe(
    method: Method, dataset: Dataset, recipe: Recipe, seed: int, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what ``run.json`` holds: everything that is needed to repeat the run."""
    return {
        "zsbir": zsbir.__version__,
        "method": spec_of(method),
        "dataset": _findable(spec_of(dataset)),
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
    wrong = [key for key, kind in RECORD.items() if not isinstance(run, dict) or not isinstance(run.get(key), kind)]
    if wrong:
        raise ZsbirError(
            f"{folder / 'run.json'} is no record of a run of `zsbir train`: {', '.join(wrong)} is missing or wrong"
        )
    return run


def settings_of(run: Mapping[str, Any], workers: int | None = None) -> dict[str, Any]:
    """Return a run's recipe, seed and settings as `Trainer` takes them, with other `workers` if given."""
    with reading("settings of", "run.json"):
        settings = {k: v for k, v in run["settings"].items() if k != "processes"}
        if workers is not None:
            settings["workers"] = workers
        own = {"speed": Speed(**settings["speed"]), "recipe": recipe_from(run["recipe"]), "seed": run["seed"]}
        return {**settings, **own}


def dataset_of(run: Mapping[str, Any], root: str | Path | None = None) -> Dataset:
    """Return a run's dataset; `root` says where its folder is now, if it was moved."""
    return DATASETS.build(run["dataset"], **({} if root is None else {"root": str(root)}))


def write_run(
    folder: Path, method: Method, dataset: Dataset, recipe: Recipe, seed: int, settings: Mapping[str, Any]
) -> None:
    """Write ``run.json``, and ``dataset.json``: which files the run trains and tests on, by class."""
    write_json(folder / "run.json", describe(method, dataset, recipe, seed, settings))
    write_json(folder / MANIFEST, dataset.manifest())


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


def _findable(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return a dataset's spec with absolute paths: a run is resumed and evaluated from any folder."""
    paths = {name: str(Path(spec[name]).absolute()) for name in ("root", "split") if isinstance(spec.get(name), str)}
    return {**spec, **paths}


def _revision() -> str | None:
    """Return the commit of zsbir's own checkout, without calling git: in a foreign one it would run its programs."""
    git = Path(zsbir.__file__).resolve().parent.parent / ".git"
    try:
        if git.is_file():  # a worktree: a file that names the folder
            git = Path(git.read_text().removeprefix("gitdir:").strip())
        name = (git / "HEAD").read_text().strip()
        if not name.startswith("ref: "):
            return name
        name = name.removeprefix("ref: ")
        shared = git / (git / "commondir").read_text().strip() if (git / "commondir").is_file() else git
        if (shared / name).is_file():
            return (shared / name).read_text().strip()
        packed = (line.split(" ") for line in (shared / "packed-refs").read_text().splitlines())
        return next((line[0] for line in packed if line[-1] == name), None)
    except OSError:
        return None
