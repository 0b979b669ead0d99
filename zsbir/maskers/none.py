"""No masks."""

from __future__ import annotations

import torch
from torch import Tensor

from zsbir.maskers import MASKERS
from zsbir.maskers.base import Masker, MaskRequest


@MASKERS.register("none")
class NoMasker(Masker):
    """Keeps every patch: training without masks, for comparison."""

    def __init__(self) -> None:
        super().__init__()

    def forward(self, request: MaskRequest) -> Tensor:
        """Return (B, N) bool, all True."""
        return torch.ones(request.shape, dtype=torch.bool, device=request.images.device)
