"""The parts of DANN: towers, a domain classifier, the schedule of λ, and a check that the reversal still teaches."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zsbir.backbones.base import Backbone
from zsbir.backbones.standard import Standard
from zsbir.types import Features

logger = logging.getLogger("zsbir")

Schedule = Literal["ramp", "step", "ganin", "constant"]


class Tower(nn.Module):
    """A backbone, the pooling of its last feature map, and a projection head.

    Args:
        backbone: Towers that get the same one share it.
        pool: ``"max"`` over the feature map as published, or ``"model"``: the backbone's own vector.
        head: Widths of a projection head's layers (ReLU between); empty: none, as published.
        unit: L2-normalise the vector.
        standardise: Standardise the pooled vector, see `zsbir.backbones.standard.Standard`.
        dropout: Share of the pooled vector hidden from the head in a training step.
    """

    def __init__(
        self,
        backbone: Backbone,
        pool: str,
        head: Sequence[int],
        unit: bool,
        standardise: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.backbone, self.pool, self.unit = backbone, pool, unit
        width = backbone.dim
        if pool != "model" and (tokens := backbone.example().tokens) is not None:
            width = tokens.shape[2]
        layers: list[nn.Module] = [Standard(width)] if standardise else []
        layers += [nn.Dropout(dropout)] if dropout else []
        for i, size in enumerate(head):
            layers += [nn.ReLU()] if i else []
            layers.append(nn.Linear(width, size))
            width = size
        self.head = nn.Sequential(*layers)
        self.dim = width

    def features(self, images: Tensor) -> Features:
        """Return the pooled features of (B, 3, H, W) images, before the head."""
        seen = self.backbone.features(images)
        if self.pool == "model" or seen.tokens is None:
            return seen
        return Features(seen.tokens.amax(dim=1), seen.tokens, seen.grid)

    def project(self, vector: Tensor) -> Tensor:
        """Return the embedding (B, dim) of pooled features (B, D)."""
        out: Tensor = self.head(vector)
        return F.normalize(out.float(), dim=1) if self.unit else out

    def forward(self, images: Tensor) -> Tensor:
        """Return the embedding (B, dim) of (B, 3, H, W) images, normalised as the backbone takes them."""
        return self.project(self.features(images).vector)


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
    return 2 / (1 + math.exp(-10 * epoch / max(epochs, 1))) - 1 if schedule == "ganin" else 1.0


class DomainClassifier(nn.Sequential):
    """Tells photo from sketch: four times linear, BatchNorm, ReLU; then one logit.

    Args:
        dim: Width of the embedding and of the layers.
    """

    def __init__(self, dim: int) -> None:
        layers = [make for _ in range(4) for make in (nn.Linear(dim, dim), nn.BatchNorm1d(dim), nn.ReLU())]
        super().__init__(*layers, nn.Linear(dim, 1))


class DomainWatch:
    """Logs a warning when the domain classifier stays at chance or at 100 %: then the reversal teaches nothing.

    Args:
        window: Steps that are averaged for one judgement; the device is read once a window.
    """

    def __init__(self, window: int = 50) -> None:
        self.window = window
        self._seen: list[Tensor] = []
        self._before = ""

    def add(self, accuracy: Tensor, strength: float) -> None:
        """Note one step's balanced accuracy (a scalar) and λ."""
        self._seen.append(accuracy)
        if len(self._seen) < self.window:
            return
        mean = float(torch.stack(self._seen).mean())
        self._seen = []
        state, why = "", ""
        if mean > 0.99:
            state, why = "at 100 %", "the reversed gradient says nothing: raise domain_loss_ratio, or lower lr"
        elif mean < 0.55:
            state, why = "at chance", "the domains are aligned (compare the report's domain gap), or it has not learned"
        if state and state != self._before:
            said = f"accuracy {mean:.3f} over {self.window} steps, lambda {strength:.2f}"
            logger.warning("dann: the domain classifier stays %s (%s): %s", state, said, why)
        self._before = state
