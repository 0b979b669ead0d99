"""A method as a folder: ``method.json`` (its spec) and ``model.safetensors`` (its weights)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

import zsbir
from zsbir.backbones.weights import without_weights
from zsbir.data.preprocess import Preprocess
from zsbir.errors import ZsbirError
from zsbir.files import present, read_json, reading, replaced, write_json
from zsbir.methods import METHODS
from zsbir.methods.embedding import as_device
from zsbir.registry import spec_of

if TYPE_CHECKING:
    from zsbir.methods.base import Method


PACKAGED = "doodle"
"""The method whose trained weights are part of the package."""


def write_method(folder: Path, method: Method, weights: Mapping[str, Tensor] | None = None) -> None:
    """Write the two files into an existing folder; `weights` as for `save`."""
    about = {"zsbir": zsbir.__version__, "method": spec_of(method), "preprocess": asdict(method.preprocess)}
    write_json(folder / "method.json", about)
    save_file(plain_tensors(method.state_dict() if weights is None else weights), folder / "model.safetensors")


def save(method: Method, folder: str | Path, weights: Mapping[str, Tensor] | None = None) -> None:
    """Write a method, replacing the one in `folder` only when the new one is whole.

    Args:
        method: Its spec is written.
        folder: Where.
        weights: What `rebuild` will fill it with; None: its state as it is.

    Raises:
        ZsbirError: If the method has no spec, or the disk is full; what was there before is intact.
    """
    with replaced(Path(folder)) as new:
        write_method(new, method, weights)


def resolve(path: str | Path) -> Path:
    """Return the folder that `path` means: itself, or a run's ``best`` or else ``last``.

    Raises:
        ZsbirError: If there is none.
    """
    path = Path(path)
    for candidate in (path, path / "best", path / "last"):
        folder = present(candidate)
        if (folder / "method.json").is_file() and (folder / "model.safetensors").is_file():
            return folder
    what = "holds no checkpoint" if path.is_dir() else "does not exist"
    raise ZsbirError(f"{path} {what}: give a run folder of `zsbir train`, or its best/ or last/")


def load(path: str | Path, device: torch.device | str = "cpu") -> Method:
    """Rebuild a trained method from a checkpoint, in evaluation mode.

    Args:
        path: A run folder (its ``best``, or else ``last``), a checkpoint folder, or ``"doodle"``, the model that comes
            with zsbir.
        device: Where to put it.

    Returns:
        zsbir.methods.base.Method: Built from its own spec and filled with the saved weights; no network and no weights
        file is needed, whatever it was trained from.

    Raises:
        ZsbirError: If there is no such checkpoint or device, or it does not fit the spec or is of a newer zsbir.
    """
    place = as_device(device)
    if str(path) == PACKAGED and not Path(path).exists():
        return METHODS.build(PACKAGED).to(place).eval()
    folder = resolve(path)
    with reading("checkpoint", folder):
        return rebuild(read_json(folder / "method.json")["method"], folder).to(place).eval()


def rebuild(spec: Mapping[str, Any], folder: Path) -> Method:
    """Build a method from its spec without any download, and fill it from a folder's ``model.safetensors``."""
    record = read_json(folder / "method.json")
    _refuse_newer(str(record.get("zsbir")), folder)
    with without_weights():
        method = METHODS.build(spec)
    try:
        method.load_state_dict(load_file(folder / "model.safetensors"))
    except (RuntimeError, SafetensorError, OSError) as error:
        reason = str(error).strip().split("\n")[-1].strip()
        raise ZsbirError(f"the weights in {folder} do not fit the method {method.spec['name']!r}: {reason}") from error
    method.preprocess = Preprocess(**record["preprocess"])
    return method


def _refuse_newer(version: str, folder: Path) -> None:
    theirs, own = ([int(part) for part in re.findall(r"\d+", v)[:2]] for v in (version, zsbir.__version__))
    if theirs > own:
        raise ZsbirError(
            f"{folder} was written by zsbir {version}, and this is {zsbir.__version__}: pip install --upgrade zsbir"
        )


def plain_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return copies on the CPU: safetensors refuses tensors that share memory or are not contiguous."""
    return {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
