"""Checkpoints: safetensors and JSON, written whole or not at all, and never unpickled.

A checkpoint is a folder: ``method.json`` (the spec), ``model.safetensors``, and for resuming ``optimizer.safetensors``
and ``state.json``. It is written under a temporary name, synced and renamed; the previous one stays until then, and
`resolve` finds it even if the machine stopped between the two renames.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim import Optimizer

import zsbir
from zsbir.errors import ZsbirError
from zsbir.methods import METHODS
from zsbir.methods.base import Method
from zsbir.registry import spec_of

OLD = ".previous"
NEW = ".incomplete"


def save_checkpoint(
    folder: Path, method: Method, optimizer: Optimizer | None = None, state: Mapping[str, Any] | None = None
) -> None:
    """Write a checkpoint, replacing the one that is there only when the new one is whole.

    Args:
        folder: Where, such as ``runs/a/last``.
        method: Its spec and its weights.
        optimizer: Its state, for resuming.
        state: JSON values, such as the epoch and the step.

    Raises:
        ZsbirError: If the disk is full or cannot be written; the checkpoint that was there is intact.
    """
    new = folder.with_name(folder.name + NEW)
    try:
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        write_json(new / "method.json", {"zsbir": zsbir.__version__, "method": spec_of(method)})
        save_file(_contiguous(method.state_dict()), new / "model.safetensors")
        if optimizer is not None:
            tensors, rest = _pack_optimizer(optimizer)
            save_file(tensors, new / "optimizer.safetensors")
            write_json(new / "state.json", {**(state or {}), "optimizer": rest})
        for file in new.iterdir():
            _sync(file)
        _swap(new, folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(new, ignore_errors=True)
        full = getattr(error, "errno", None) == errno.ENOSPC or "No space" in str(error)
        reason = "the disk is full" if full else f"it cannot be written ({error})"
        raise ZsbirError(
            f"no checkpoint in {folder}: {reason}; the one before it is intact, make room and use --resume"
        ) from error


def _swap(new: Path, folder: Path) -> None:
    old = folder.with_name(folder.name + OLD)
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
    new.rename(folder)
    _sync(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def resolve(path: str | Path) -> Path:
    """Return the checkpoint folder that `path` means: itself, or a run's ``best`` or else ``last``.

    Raises:
        ZsbirError: If there is none.
    """
    path = Path(path)
    for candidate in (path, path / "best", path / "last"):
        for folder in (candidate, candidate.with_name(candidate.name + OLD)):
            if (folder / "method.json").is_file() and (folder / "model.safetensors").is_file():
                return folder
    what = "holds no checkpoint" if path.is_dir() else "does not exist"
    raise ZsbirError(f"{path} {what}: give a run folder of `zsbir train`, or its best/ or last/")


def load(path: str | Path, device: torch.device | str = "cpu") -> Method:
    """Rebuild a trained method from a checkpoint, in evaluation mode.

    Args:
        path: A run folder (its ``best``, or else ``last``), or a checkpoint folder.
        device: Where to put it.

    Returns:
        The method, built from its own spec and filled with the saved weights; no network and no weights file is
        needed, whatever it was trained from.

    Raises:
        ZsbirError: If there is no checkpoint, or it does not fit the spec.
    """
    folder = resolve(path)
    spec = read_json(folder / "method.json")["method"]
    method = METHODS.build(without_weights(spec))
    load_into(method, folder)
    method.spec = spec
    return method.to(device).eval()


def load_into(method: Method, folder: Path) -> None:
    """Fill `method` with a checkpoint's weights; raises ZsbirError if they do not fit."""
    try:
        method.load_state_dict(load_file(folder / "model.safetensors"))
    except (RuntimeError, SafetensorError, OSError) as error:
        reason = str(error).strip().split("\n")[-1].strip()
        raise ZsbirError(f"the weights in {folder} do not fit the method {method.spec['name']!r}: {reason}") from error


def without_weights(spec: Any) -> Any:
    """Return the spec with every ``pretrained`` off and every ``weights`` file dropped, at any depth."""
    if isinstance(spec, Mapping):
        off: dict[str, Any] = {"pretrained": False}
        return {
            k: off[k] if k in off else None if k == "weights" or k.endswith("_weights") else without_weights(v)
            for k, v in spec.items()
        }
    return [without_weights(v) for v in spec] if isinstance(spec, list) else spec


def load_state(folder: Path, optimizer: Optimizer) -> dict[str, Any]:
    """Fill `optimizer` from a checkpoint and return the rest of its state.

    Raises:
        ZsbirError: If the folder cannot be resumed from.
    """
    if not (folder / "state.json").is_file():
        raise ZsbirError(f"{folder} has no training state, so it cannot be resumed; start a new run with --weights")
    state = read_json(folder / "state.json")
    _unpack_optimizer(optimizer, load_file(folder / "optimizer.safetensors"), state.pop("optimizer"))
    return state


def _contiguous(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    # Shared tensors are written once per name: clones keep safetensors from refusing them.
    return {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}


def _pack_optimizer(optimizer: Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    state = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    scalars: dict[str, dict[str, Any]] = {}
    for index, values in state["state"].items():
        for key, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{key}"] = value
            else:
                scalars.setdefault(str(index), {})[key] = value
    return _contiguous(tensors), {"groups": state["param_groups"], "scalars": scalars}


def _unpack_optimizer(optimizer: Optimizer, tensors: Mapping[str, Tensor], rest: Mapping[str, Any]) -> None:
    state: dict[int, dict[str, Any]] = {int(k): dict(v) for k, v in rest["scalars"].items()}
    for name, tensor in tensors.items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": rest["groups"]})


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(file: Path, value: Any) -> None:
    """Write JSON through a temporary name, so that no reader ever sees half of it."""
    part = file.with_name(file.name + NEW)
    part.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    part.replace(file)


def read_json(file: Path) -> Any:
    """Read JSON; raises ZsbirError if the file is missing or broken."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ZsbirError(f"{file} cannot be read: {error}") from error
