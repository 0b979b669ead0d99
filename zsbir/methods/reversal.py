"""What a gradient reversal needs besides itself: a domain classifier, a schedule for λ, and an eye on both."""

from __future__ import annotations

import logging
import math
from typing import Literal

import torch
from torch import Tensor, nn

from zsbir.errors import ZsbirError

logger = logging.getLogger("zsbir")

Schedule = Literal["ramp", "step", "ganin", "constant"]


def reversal_strength(schedule: Schedule, epoch: int, epochs: int, threshold: int = 25) -> float:
    """Return λ of an epoch.

    Args:
        schedule: ``"ramp"``: 0 before epoch 5, then epoch / threshold, 1 from the threshold on. ``"step"``: 0 before
            the threshold, then 1. ``"ganin"``: 2 / (1 + e^(−10 p)) − 1 with p = epoch / epochs (arXiv 1409.7495).
            ``"constant"``: 1.
        epoch: From 0.
        epochs: Epochs of the run.
        threshold: T, at least 1.

    >>> [reversal_strength("ramp", e, 50) for e in (4, 5, 20, 30)]
    [0.0, 0.2, 0.8, 1.0]
    """
    if schedule == "ramp":
        return 0.0 if epoch < min(5, threshold) else min(1.0, epoch / threshold)
    if schedule == "step":
        return float(epoch >= threshold)
    if schedule == "ganin":
        return 2 / (1 + math.exp(-10 * epoch / max(epochs, 1))) - 1
    if schedule == "constant":
        return 1.0
    raise ZsbirError(f"there is no schedule {schedule!r}; known: ramp, step, ganin, constant")


class DomainClassifier(nn.Sequential):
    """Tells photo from sketch: four times linear, BatchNorm, ReLU; then one logit.

    Args:
        dim: Width of the embedding and of the layers.
    """

    def __init__(self, dim: int) -> None:
        layers = [make for _ in range(4) for make in (nn.Linear(dim, dim), nn.BatchNorm1d(dim), nn.ReLU())]
        super().__init__(*layers, nn.Linear(dim, 1))


class DomainWatch:
    """Says in the log when the domain classifier stays at chance or at 100 %: then the reversal teaches nothing.

    Args:
        window: Steps that are averaged before judging; one read from the device a window.
    """

    def __init__(self, window: int = 50) -> None:
        self.window = window
        self._seen: list[Tensor] = []
        self._before = ""

    def add(self, accuracy: Tensor, strength: float) -> None:
        """Take in one step's balanced accuracy (a scalar) and λ."""
        self._seen.append(accuracy)
        if len(self._seen) < self.window:
            return
        mean = float(torch.stack(self._seen).mean())
        self._seen = []
        state = "at 100 %" if mean > 0.99 else "at chance" if mean < 0.55 else ""
        if state and state != self._before:
            why = (
                "it tells sketch from photo without fail, so the reversed gradient says nothing: raise "
                "domain_loss_ratio, or lower the learning rate"
                if mean > 0.99
                else "either the domains are aligned (compare the report's domain gap), or it has not learned"
            )
            logger.warning(
                "dann: the domain classifier stays %s (accuracy %.3f over %d steps, lambda %.2f); %s",
                state, mean, self.window, strength, why,
            )  # fmt: skip
        self._before = state
