"""Random masks."""

from __future__ import annotations

import torch
from torch import Tensor

from zsbir.arguments import Count, Ratio
from zsbir.maskers import MASKERS
from zsbir.maskers._select import ScoreMasker, choose
from zsbir.maskers.base import MaskRequest


@MASKERS.register("random")
class RandomMasker(ScoreMasker):
    """Keeps random patches, drawn anew at every call: the baseline that a masker must beat.

    Args:
        ratio: Share of the patches that is masked, counted as `vxl` does.
        keep: Number of patches to keep instead.

    The draw follows torch's random state, so a seed repeats it. Stored masks hold one draw per photo.
    """

    def __init__(self, ratio: Ratio = 0.7, keep: Count | None = None) -> None:
        super().__init__(ratio, keep)

    def forward(self, request: MaskRequest) -> Tensor:
        """Return (B, N) bool, True = keep; the same number of patches in every row."""
        return choose(torch.rand(request.shape, device=request.images.device), self.ratio, self.keep)
