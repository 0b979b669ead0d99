"""Checkpoints of a run: a saved method, and what resuming needs; safetensors and JSON, never unpickled.

Beside the two files of `zsbir.methods.saving`: ``optimizer.safetensors`` and ``state.json``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import NoneType
from typing import Any

from safetensors.torch import save_file
from torch import Tensor
from torch.optim import SGD, Optimizer

from zsbir.backbones.weights import read_tensors
from zsbir.engine.learner import Learner
from zsbir.engine.lora import ADAPTERS
from zsbir.errors import ZsbirError
from zsbir.files import Kinds, read_record, replaced, write_json
from zsbir.methods.saving import fill, plain_tensors, write_method

AVERAGE = "average.safetensors"
OPTIMIZER = "optimizer.safetensors"
STATE: Kinds = {
    "epoch": int, "step": int, "best": (float, NoneType), "best_epoch": (int, NoneType),
    "bad_images": list, "log": int, "tensors": int
}  # fmt: skip
"""What ``state.json`` must hold."""


def save_checkpoint(folder: Path, learner: Learner, state: Mapping[str, Any]) -> None:
    """Write a checkpoint; it replaces the one that is there only once it is whole.

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
    """Fill all of a learner but its method from a checkpoint, and return the rest of the state.

    Raises:
        ZsbirError: If something is missing, cannot be read, or does not fit the method's parameters.
    """
    if not (folder / "state.json").is_file():
        raise ZsbirError(f"{folder} has no training state, so it cannot be resumed; start a new run with --weights")
    state = read_record(folder / "state.json", STATE)
    _fill_optimizer(learner.optimizer, folder / OPTIMIZER, state["tensors"])
    if learner.average is not None:
        fill(learner.average.module, folder / AVERAGE)
    if learner.adapters is not None:
        learner.adapters.load(folder / ADAPTERS)
    return state


def _fill_optimizer(optimizer: Optimizer, file: Path, count: int) -> None:
    tensors = read_tensors(file)
    groups = optimizer.state_dict()["param_groups"]
    parameters = dict(enumerate(p for group in optimizer.param_groups for p in group["params"]))
    needed = {"momentum_buffer"} if isinstance(optimizer, SGD) else {"step", "exp_avg", "exp_avg_sq"}
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
