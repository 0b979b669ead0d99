"""The run folder: what was used, written in full."""

from __future__ import annotations

import datetime
import platform
import shlex
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
from zsbir.files import Kinds, read_json, read_record, reading, write_json, writing
from zsbir.methods.base import Method, Recipe
from zsbir.registry import spec_of

MANIFEST = "dataset.json"
RECORD: Kinds = {"method": (str, dict), "dataset": (str, dict), "recipe": dict, "seed": int, "settings": dict}
"""What ``run.json`` must hold."""


def refuse_taken(folder: Path, run: bool = True) -> None:
    """Raise ZsbirError if `folder` is a file or holds something: nothing is ever overwritten.

    Args:
        folder: What a command wants to fill.
        run: Whether it is to be a run, which could be continued instead.
    """
    what = "run folder" if run else "folder"
    if folder.is_file():
        raise ZsbirError(f"the {what} {folder} is a file: choose another with --out")
    if folder.is_dir() and any(folder.iterdir()):
        held = (folder / "run.json").is_file()
        state = "already holds a run" if held else "is not empty"
        instead = ", or continue it with --resume" if run and held else ""
        raise ZsbirError(f"the {what} {folder} {state}: choose another with --out{instead}")


def claim(folder: Path, run: bool = True) -> None:
    """Make a new folder; raises ZsbirError as `refuse_taken`, and if it cannot be written."""
    refuse_taken(folder, run)
    with writing("run" if run else "result", folder):
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".probe"
        probe.write_bytes(b"0" * 4096)
        probe.unlink()


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold a run folder for a block: one process trains a run at a time.

    Raises:
        ZsbirError: If another process holds it, or it cannot be written.
    """
    with writing("run", folder):
        try:
            held = FileLock(folder / ".lock", timeout=0).acquire()
        except Timeout:
            raise ZsbirError(
                f"{folder} is being trained by another process: wait for its end, or stop it first"
            ) from None
    with held:
        yield


def refuse_other_data(run: Mapping[str, Any], dataset: Dataset, folder: Path) -> None:
    """Raise ZsbirError, with what changed, if a dataset is not the one that the run in `folder` began with."""
    if run.get("dataset_manifest") != dataset.manifest_hash:
        file = folder / MANIFEST
        changed = difference(read_json(file), dataset.manifest()) if file.is_file() else None
        raise ZsbirError(
            f"the dataset has changed since {folder} began ({changed or 'other files or classes'}), so going on would "
            "train on something else: bring it back, or start a new run with --from"
        )


def write_run(
    folder: Path, method: Method, dataset: Dataset, recipe: Recipe, seed: int, settings: Mapping[str, Any]
) -> None:
    """Write ``run.json``, all that is needed to repeat a run, and ``dataset.json``: its files by part and class."""
    spec = spec_of(dataset)
    # Absolute paths: a run is resumed and evaluated from any folder.
    paths = {name: str(Path(spec[name]).absolute()) for name in ("root", "split") if isinstance(spec.get(name), str)}
    record = {
        "zsbir": zsbir.__version__,
        "method": spec_of(method),
        "dataset": {**spec, **paths},
        "dataset_manifest": dataset.manifest_hash,
        "dataset_notes": list(dataset.notes),
        "classes": {part: list(getattr(dataset, part).classes) for part in ("train", "validation", "test")},
        "recipe": asdict(recipe),
        "seed": seed,
        "settings": dict(settings),
        "command": shlex.join(sys.argv),
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "git": _revision(),
        "host": {"python": platform.python_version(), "system": platform.system(), "machine": platform.machine()},
        "versions": {"torch": torch.__version__, "timm": timm.__version__, "numpy": np.__version__},
    }
    write_json(folder / "run.json", record)
    write_json(folder / MANIFEST, dataset.manifest())


def read_run(folder: Path) -> dict[str, Any]:
    """Read ``run.json`` of a run folder.

    Raises:
        ZsbirError: If the folder holds no run, or its record is incomplete.
    """
    if not (folder / "run.json").is_file():
        what = "holds no run (no run.json)" if folder.is_dir() else "does not exist"
        raise ZsbirError(f"{folder} {what}: give the folder that `zsbir train` wrote")
    return read_record(folder / "run.json", RECORD)


def settings_of(run: Mapping[str, Any], workers: int | None = None) -> dict[str, Any]:
    """Return the arguments of `Trainer` for a run's recipe, seed and settings, with other `workers` if given."""
    with reading("settings of", "run.json"):
        settings = {k: v for k, v in run["settings"].items() if k != "processes"}
        if workers is not None:
            settings["workers"] = workers
        own = {"speed": Speed(**settings["speed"]), "recipe": recipe_from(run["recipe"]), "seed": run["seed"]}
        return {**settings, **own}


def dataset_of(run: Mapping[str, Any], root: str | Path | None = None) -> Dataset:
    """Return a run's dataset; `root` is its folder if it has moved."""
    return DATASETS.build(run["dataset"], **({} if root is None else {"root": str(root)}))


def recipe_from(values: Mapping[str, Any], start: Recipe | None = None) -> Recipe:
    """Return `start` (or the defaults) with some values replaced.

    Raises:
        ZsbirError: For an unknown setting, with the close matches, or a value out of range.
    """
    merged = {**asdict(start or Recipe()), **values}
    if isinstance(merged["freeze"], str):
        merged["freeze"] = (merged["freeze"],)
    recipe = Recipe(**merged)
    if recipe.lora is not None:
        Lora.of(recipe.lora)  # refuse a wrong setting now, not at the start of training
    return replace(recipe, freeze=tuple(recipe.freeze))


def _revision() -> str | None:
    """Return the commit of zsbir's checkout, without calling git, which runs programs that a checkout names."""
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
