"""Checkpoints of a run: a saved method, and what resuming needs; safetensors and JSON, never unpickled.

Beside the two files of `zsbir.methods.saving`: ``optimizer.safetensors`` and ``state.json``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim import Optimizer

from zsbir.engine.lora import ADAPTERS, Adapters
from zsbir.engine.weights import Average
from zsbir.errors import ZsbirError
from zsbir.files import read_json, replaced, write_json
from zsbir.methods.base import Method
from zsbir.methods.saving import plain_tensors, write_method

AVERAGE = "average.safetensors"


def save_checkpoint(
    folder: Path,
    method: Method,
    optimizer: Optimizer,
    state: Mapping[str, Any],
    average: Average | None = None,
    adapters: Adapters | None = None,
) -> None:
    """Write a checkpoint, replacing the one that is there only when the new one is whole.

    Args:
        folder: Where, such as ``runs/a/last``.
        method: Its spec and its weights.
        optimizer: Its state.
        state: JSON values, such as the epoch and the step.
        average: The average of the weights, where the recipe has one.
        adapters: The method's adapters, where the recipe has some; ``model.safetensors`` then has them merged.

    Raises:
        ZsbirError: If the disk is full or cannot be written; the checkpoint that was there is intact.
    """
    with replaced(folder) as new:
        write_method(new, method, None if adapters is None else adapters.plain_state())
        if adapters is not None:
            adapters.save(new / ADAPTERS)
        tensors, rest = _pack(optimizer)
        save_file(tensors, new / "optimizer.safetensors")
        write_json(new / "state.json", {**state, "optimizer": rest})
        if average is not None:
            average.save(new / AVERAGE)


def load_state(
    folder: Path, optimizer: Optimizer, average: Average | None = None, adapters: Adapters | None = None
) -> dict[str, Any]:
    """Fill optimiser, average and adapters from a checkpoint and return the rest of its state.

    Raises:
        ZsbirError: If the folder cannot be resumed from.
    """
    if not (folder / "state.json").is_file():
        raise ZsbirError(f"{folder} has no training state, so it cannot be resumed; start a new run with --weights")
    state: dict[str, Any] = read_json(folder / "state.json")
    rest = state.pop("optimizer")
    slots: dict[int, dict[str, Any]] = {int(k): dict(v) for k, v in rest["scalars"].items()}
    for name, tensor in load_file(folder / "optimizer.safetensors").items():
        index, key = name.split(".", 1)
        slots.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": slots, "param_groups": rest["groups"]})
    if average is not None:
        average.load(folder / AVERAGE)
    if adapters is not None:
        adapters.load(folder / ADAPTERS)
    return state


def _pack(optimizer: Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    state = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    scalars: dict[str, dict[str, Any]] = {}
    for index, values in state["state"].items():
        for key, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{key}"] = value
            else:
                scalars.setdefault(str(index), {})[key] = value
    return plain_tensors(tensors), {"groups": state["param_groups"], "scalars": scalars}
