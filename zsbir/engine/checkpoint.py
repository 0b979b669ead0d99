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
from torch import Tensor
from torch.optim import Optimizer

from zsbir.engine.learner import Learner
from zsbir.engine.lora import ADAPTERS
from zsbir.errors import ZsbirError
from zsbir.files import read_json, replaced, write_json
from zsbir.methods.saving import plain_tensors, write_method

AVERAGE = "average.safetensors"
OPTIMIZER = "optimizer.safetensors"
STATE: dict[str, type | tuple[type, ...]] = {
    "epoch": int, "step": int, "best": (float, NoneType), "best_epoch": (int, NoneType),
    "bad_images": list, "log": int, "tensors": int
}  # fmt: skip
"""What ``state.json`` must hold."""
SLOTS = {"SGD": {"momentum_buffer"}}
"""What an optimiser keeps of each parameter that has had a gradient, if not Adam's."""
ADAM = {"step", "exp_avg", "exp_avg_sq"}


def save_checkpoint(folder: Path, learner: Learner, state: Mapping[str, Any]) -> None:
    """Write a checkpoint, replacing the one that is there only when the new one is whole.

    Args:
        folder: Where, such as ``runs/a/last``.
        learner: Its method (with the adapters merged), its optimiser's state, its adapters and its average.
        state: JSON values, such as the epoch and the step.

    Raises:
        ZsbirError: If the disk is full or cannot be written; the checkpoint that was there is intact.
    """
    slots = learner.optimizer.state_dict()["state"].items()
    tensors = {f"{index}.{key}": value for index, slot in slots for key, value in slot.items() if value is not None}
    with replaced(folder) as new:
        write_method(new, learner.method, learner.plain_state(learner.method))
        save_file(plain_tensors(tensors), new / OPTIMIZER)
        write_json(new / "state.json", {**state, "tensors": len(tensors)})
        if learner.adapters is not None:
            learner.adapters.save(new / ADAPTERS)
        if learner.average is not None:
            save_file(plain_tensors(learner.average.module.state_dict()), new / AVERAGE)


def load_state(folder: Path, learner: Learner) -> dict[str, Any]:
    """Fill a learner from a checkpoint, but for its method, and return the rest of the state.

    Raises:
        ZsbirError: If the folder cannot be resumed from: something is missing, or does not fit the parameters.
    """
    if not (folder / "state.json").is_file():
        raise ZsbirError(f"{folder} has no training state, so it cannot be resumed; start a new run with --weights")
    state: dict[str, Any] = read_json(folder / "state.json")
    wrong = [k for k, kind in STATE.items() if not isinstance(state, dict) or not isinstance(state.get(k, ...), kind)]
    if wrong:
        raise ZsbirError(f"{folder / 'state.json'} is no training state: {', '.join(wrong)} is missing or wrong")
    _fill_optimizer(learner.optimizer, folder / OPTIMIZER, state["tensors"])
    if learner.average is not None:
        file = folder / AVERAGE
        try:
            learner.average.module.load_state_dict(_tensors(file))
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1].strip()
            raise ZsbirError(f"{file} does not fit the method: {reason}") from error
    if learner.adapters is not None:
        learner.adapters.load(folder / ADAPTERS)
    return state


def _tensors(file: Path) -> dict[str, Tensor]:
    try:
        return dict(load_file(file))
    except (OSError, SafetensorError, ValueError) as error:
        raise ZsbirError(f"{file} cannot be read ({error}), so the run cannot be resumed") from error


def _fill_optimizer(optimizer: Optimizer, file: Path, count: int) -> None:
    tensors = _tensors(file)
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
