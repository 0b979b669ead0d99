"""Devices, precision and trackers: the Accelerator of a trainer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState

from zsbir.errors import ZsbirError
from zsbir.methods.base import Method
from zsbir.methods.embedding import as_device
from zsbir.registry import close_matches

Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["no", "bf16", "fp16"]


def auto_precision(device: str) -> Precision:
    """Return ``"bf16"`` for a GPU that computes in it (Ampere, compute capability 8, and later), else ``"no"``."""
    if as_device(device).type == "cpu" or torch.cuda.get_device_capability() < (8, 0):
        return "no"
    return "bf16"


def make_accelerator(
    method: Method, device: Device, precision: Precision, track: Sequence[str], out: Path | None
) -> Accelerator:
    """Return what moves models, scales losses, sums gradients over processes and feeds trackers.

    Args:
        method: Says whether some of its parameters get no gradient in some steps.
        device: ``"auto"`` takes CUDA where there is one.
        precision: Of the forward pass.
        track: Names of trackers, see `check_trackers`.
        out: The run folder, where trackers that write files write them.

    Raises:
        ZsbirError: For CUDA where there is none, fp16 on a CPU, or a tracker that is not installed.
    """
    cpu = as_device(device).type == "cpu"
    if precision == "fp16" and cpu:
        raise ZsbirError("fp16 needs CUDA: on a CPU use --precision no or bf16")
    check_trackers(track)
    AcceleratorState._reset_state()  # else a second trainer of this process could have no other precision
    return Accelerator(
        cpu=cpu,
        mixed_precision=precision,
        log_with=list(track) or None,
        project_dir=None if out is None else str(out),
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=method.has_unused_parameters)],
    )


def check_trackers(names: Sequence[str]) -> None:
    """Raise ZsbirError for a tracker that Accelerate does not know, or whose package is missing."""
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    there = {str(getattr(name, "value", name)) for name in get_available_trackers()}
    for name in names:
        if name not in LOGGER_TYPE_TO_CLASS:
            raise ZsbirError(f"there is no tracker {name!r}. {close_matches(name, sorted(LOGGER_TYPE_TO_CLASS))}")
        if name not in there:
            extra = "zsbir[track]" if name == "tensorboard" else name
            raise ZsbirError(
                f"the tracker {name!r} is not installed: pip install '{extra}', or leave out --track {name}"
            )
