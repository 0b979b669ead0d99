"""Checkpoints of a run: a saved method, and what resuming needs; safetensors and JSON, never unpickled.

Beside the two files of `zsbir.methods.saving`: ``optimizer.safetensors`` and ``state.json``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import NoneType
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from zsbir.engine.lora import ADAPTERS, Adapters
from zsbir.engine.weights import Average
from zsbir.errors import ZsbirError
from zsbir.files import read_json, replaced, write_json
from zsbir.methods.base import Method
from zsbir.methods.saving import plain_tensors, write_method

AVERAGE = "average.safetensors"
OPTIMIZER = "optimizer.safetensors"
STATE = {
    "epoch": int, "step": int, "best": (float, NoneType), "best_epoch": (int, NoneType),
    "bad_images": list, "log": int, "tensors": int
}  # fmt: skip
"""What ``state.json`` must hold."""
SLOTS = {"SGD": {"momentum_buffer"}}
"""What an optimiser keeps of each parameter that has had a gradient, if not Adam's."""
ADAM = {"step", "exp_avg", "exp_avg_sq"}


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
        optimizer: Its state; its groups come from the recipe again.
        state: JSON values, such as the epoch and the step.
        average: The average of the weights, where the recipe has one.
        adapters: The method's adapters, where the recipe has some; ``model.safetensors`` then has them merged.

    Raises:
        ZsbirError: If the disk is full or cannot be written; the checkpoint that was there is intact.
    """
    slots = optimizer.state_dict()["state"].items()
    tensors = {f"{index}.{key}": value for index, slot in slots for key, value in slot.items() if value is not None}
    with replaced(folder) as new:
        write_method(new, method, None if adapters is None else adapters.plain_state(method))
        save_file(plain_tensors(tensors), new / OPTIMIZER)
        write_json(new / "state.json", {**state, "tensors": len(tensors)})
        if adapters is not None:
            adapters.save(new / ADAPTERS)
        if average is not None:
            save_file(plain_tensors(average.module.state_dict()), new / AVERAGE)


def load_state(
    folder: Path, optimizer: Optimizer, average: Average | None = None, adapters: Adapters | None = None
) -> dict[str, Any]:
    """Fill optimiser, average and adapters from a checkpoint and return the rest of its state.

    Raises:
        ZsbirError: If the folder cannot be resumed from: something is missing, or does not fit the parameters.
    """
    if not (folder / "state.json").is_file():
        raise ZsbirError(f"{folder} has no training state, so it cannot be resumed; start a new run with --weights")
    state: dict[str, Any] = read_json(folder / "state.json")
    wrong = [k for k, kind in STATE.items() if not isinstance(state, dict) or not isinstance(state.get(k, ...), kind)]
    if wrong:
        raise ZsbirError(f"{folder / 'state.json'} is no training state: {', '.join(wrong)} is missing or wrong")
    _fill_optimizer(optimizer, folder / OPTIMIZER, state["tensors"])
    if average is not None:
        _fill(average.module, folder / AVERAGE)
    if adapters is not None:
        adapters.load(folder / ADAPTERS)
    return state


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Read a safetensors file; raises ZsbirError if it is missing or broken."""
    try:
        return dict(load_file(file))
    except (OSError, SafetensorError, ValueError) as error:
        raise ZsbirError(f"{file} cannot be read ({error}), so the run cannot be resumed") from error


def _fill(module: nn.Module, file: Path) -> None:
    try:
        module.load_state_dict(read_tensors(file))
    except RuntimeError as error:
        raise ZsbirError(f"{file} does not fit the method: {str(error).strip().splitlines()[-1].strip()}") from error


def _fill_optimizer(optimizer: Optimizer, file: Path, count: int) -> None:
    tensors = read_tensors(file)
    groups = optimizer.state_dict()["param_groups"]
    parameters = dict(enumerate(p for group in optimizer.param_groups for p in group["params"]))
    needed = SLOTS.get(type(optimizer).__name__, ADAM)
    slots: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, _, key = name.partition(".")
        parameter = parameters.get(int(index) if index.isdecimal() else -1)
        # Fused kernels trust the shapes: with wrong ones they write past the end of their memory.
        shape = None if parameter is None else () if key == "step" else tuple(parameter.shape)
        if tuple(tensor.shape) != shape or not tensor.is_floating_point() or key not in needed:
            raise ZsbirError(f"{file}: {name!r} does not fit the method's parameters, so the run cannot be resumed")
        slots.setdefault(int(index), {})[key] = tensor
    if len(tensors) != count or any(slot.keys() != needed for slot in slots.values()):
        raise ZsbirError(f"{file} lacks tensors of the optimiser, so the run cannot be resumed")
    optimizer.load_state_dict({"state": slots, "param_groups": groups})
