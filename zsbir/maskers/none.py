"""The masker that masks nothing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from zsbir.maskers import MASKERS
from zsbir.maskers.base import Masker
from zsbir.types import Features


@MASKERS.register("none")
class NoMasker(Masker):
    """Keeps every patch: training without masks, for comparison."""

    def __init__(self) -> None:
        super().__init__()

    def forward(
        self,
        images: Tensor,
        class_names: Sequence[str],
        grid: tuple[int, int],
        features: Features | None = None,
        objects: Tensor | None = None,
    ) -> Tensor:
        """Return (B, N) bool, all True."""
        return torch.ones(len(images), grid[0] * grid[1], dtype=torch.bool, device=images.device)
