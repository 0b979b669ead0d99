"""A method as a folder: ``method.json`` (its spec) and ``model.safetensors`` (its weights)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

import zsbir
from zsbir.errors import ZsbirError
from zsbir.files import present, read_json, replaced, write_json
from zsbir.methods.embedding import Encoder
from zsbir.registry import spec_of


def write_method(folder: Path, method: Encoder, weights: Mapping[str, Tensor] | None = None) -> None:
    """Write the two files into an existing folder; `weights` as for `save`."""
    about = {"zsbir": zsbir.__version__, "method": spec_of(method), "preprocess": asdict(method.preprocess)}
    write_json(folder / "method.json", about)
    save_file(plain_tensors(method.state_dict() if weights is None else weights), folder / "model.safetensors")


def save(method: Encoder, folder: str | Path, weights: Mapping[str, Tensor] | None = None) -> None:
    """Write a method to `folder`; it replaces the one that is there only once it is whole.

    Args:
        method: Its spec, its preparation and its weights are written.
        folder: Where.
        weights: Other weights to write; None: the method's own.

    Raises:
        ZsbirError: If the method has no spec, or the disk is full; the old folder is then intact.
    """
    with replaced(Path(folder)) as new:
        write_method(new, method, weights)


def resolve(path: str | Path) -> Path:
    """Return the folder that `path` means: itself, or a run's ``best``, or else its ``last``.

    Raises:
        ZsbirError: If none of them holds a checkpoint.
    """
    path = Path(path)
    for candidate in (path, path / "best", path / "last"):
        folder = present(candidate)
        if (folder / "method.json").is_file() and (folder / "model.safetensors").is_file():
            return folder
    what = "holds no checkpoint" if path.is_dir() else "does not exist"
    raise ZsbirError(f"{path} {what}: give a run folder of `zsbir train`, or its best/ or last/")


def read_method(folder: Path) -> dict[str, Any]:
    """Return ``method.json`` of a folder; raises ZsbirError if a newer zsbir wrote it."""
    record: dict[str, Any] = read_json(folder / "method.json")
    version = str(record.get("zsbir"))
    theirs, own = ([int(part) for part in re.findall(r"\d+", v)[:2]] for v in (version, zsbir.__version__))
    if theirs > own:
        raise ZsbirError(
            f"{folder} was written by zsbir {version}, and this is {zsbir.__version__}: pip install --upgrade zsbir"
        )
    return record


def fill(method: Encoder, file: Path) -> None:
    """Give a method the weights in a file; raises ZsbirError if it cannot be read or does not fit."""
    try:
        method.load_state_dict(load_file(file))
    except (RuntimeError, SafetensorError, OSError) as error:
        reason = str(error).strip().split("\n")[-1].strip()
        raise ZsbirError(f"the weights in {file} do not fit the method {method.spec['name']!r}: {reason}") from error


def plain_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return copies on the CPU: safetensors refuses tensors that share memory or are not contiguous."""
    return {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
