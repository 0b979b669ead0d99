"""Losses and logged figures of steps, on their way from the device to ``metrics.jsonl``, trackers and the bar."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from zsbir.engine.logging import EpochBar, StepLog
from zsbir.errors import ZsbirError

READ_LATER = 8
"""On a GPU, losses are read this many steps later, so that no step waits for an earlier one."""


@dataclass
class _Step:
    """A step whose losses may still be on the device; `row` has zeros in their places."""

    row: dict[str, Any]
    names: list[str]
    values: Tensor
    ready: Any
    files: Mapping[str, list[str]]


class Figures:
    """Takes each step's figures and writes them, in order, when they are there.

    Args:
        accelerator: Sums over processes, and feeds trackers.
        log: Where rows go.
        kept: Says which checkpoint there is, for the error when a loss is not finite.

    Attributes:
        later: How many steps later a step's figures are read.
        bar: Shows them.
        asked: Whether any process was asked to stop by the last step that was read: the same in all processes.
    """

    def __init__(self, accelerator: Accelerator, log: StepLog, kept: Callable[[], str]) -> None:
        self._accelerator, self.log, self._kept = accelerator, log, kept
        self._alone = accelerator.num_processes == 1
        self._unread: deque[_Step] = deque()
        self.later = READ_LATER if accelerator.device.type == "cuda" else 0
        self.bar: EpochBar | None = None
        self.asked = False

    def note(
        self,
        row: Mapping[str, Any],
        terms: Mapping[str, Tensor],
        total: Tensor,
        logged: Mapping[str, Tensor | float],
        files: Mapping[str, list[str]],
        asked: bool,
    ) -> None:
        """Take the figures of a step; `row` has those already known, such as ``step``, counted from 1."""
        late = {name: value for name, value in logged.items() if isinstance(value, Tensor)}
        values = torch.stack([v.detach().float().reshape(()) for v in (*terms.values(), total, *late.values())])
        if not self._alone:  # all must stop at the same step, so the processes share their signals
            values = torch.cat([values, values.new_full((1,), float(asked))])
            values = self._accelerator.reduce(values, reduction="mean")
        ready = None
        if values.device.type == "cuda":
            values = values.to("cpu", non_blocking=True)
            ready = torch.cuda.Event()
            ready.record()
        whole = {**row, **dict.fromkeys([*terms, "loss"], 0.0), **logged}
        self._unread.append(_Step(whole, [*terms, "loss", *late], values, ready, files))

    def read(self, all_of_them: bool = False) -> None:
        """Write the rows of the steps that are old enough.

        Raises:
            ZsbirError: For a loss term that is not finite, with its step.
        """
        while len(self._unread) > (0 if all_of_them else self.later):
            step = self._unread.popleft()
            if step.ready is not None:
                step.ready.synchronize()
            values = step.values.tolist()
            if not self._alone:
                self.asked = self.asked or values.pop() > 0
            step.row.update(zip(step.names, values, strict=True))
            for term in step.names[: step.names.index("loss")]:
                if not math.isfinite(step.row[term]):
                    named = ", ".join(name for names in step.files.values() for name in names[:4])
                    raise ZsbirError(
                        f"the loss term {term!r} is {step.row[term]} at step {step.row['step']} of epoch "
                        f"{step.row['epoch'] + 1}{self._kept()}. Lower --lr, or look at the batch's files: {named}, ..."
                    )
            self.write(step.row)
            if self.bar is not None:
                self.bar.step({name: step.row[name] for name in step.names})

    def write(self, row: Mapping[str, Any]) -> None:
        """Write a row to the log and the trackers."""
        self.log.write(row)
        if self._accelerator.log_with:
            self._accelerator.log({k: v for k, v in row.items() if k not in ("step", "epoch")}, step=row["step"])
