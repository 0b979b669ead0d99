"""Masks from the true objects."""

from __future__ import annotations

import torch
from torch import Tensor

from zsbir.arguments import PositiveProportion, Ratio
from zsbir.errors import ZsbirError
from zsbir.maskers import MASKERS
from zsbir.maskers._select import choose
from zsbir.maskers.base import Masker, MaskRequest
from zsbir.maskers.quality import coverage


@MASKERS.register("oracle")
class OracleMasker(Masker):
    """Keeps the patches on the true object, if the dataset knows it: the best that a masker can do.

    Args:
        share: Keep a patch if the object covers at least this share of it, in (0, 1].
        ratio: Instead mask this share of the patches, the least covered ones, counted as `vxl` does.

    If no patch is covered enough, the most covered one is kept.
    """

    needs_objects = True

    def __init__(self, share: PositiveProportion = 0.5, ratio: Ratio | None = None) -> None:
        super().__init__()
        self.share, self.ratio = share, ratio

    def forward(self, request: MaskRequest) -> Tensor:
        """Return (B, N) bool, True = keep, from ``objects`` (B, H, W)."""
        covered = self.heatmap(request)
        if self.ratio is not None:
            return choose(covered, self.ratio)
        best = torch.zeros_like(covered, dtype=torch.bool).scatter(1, covered.argmax(1, keepdim=True), True)
        return (covered >= self.share) | best

    def heatmap(self, request: MaskRequest) -> Tensor:
        """Return (B, N) float: the share of each patch that the object covers.

        Raises:
            ZsbirError: If the dataset does not know the objects.
        """
        if request.objects is None:
            raise ZsbirError(
                "the masker 'oracle' needs the true object masks, which this dataset does not have: use 'openmoji', or "
                "another masker"
            )
        return coverage(request.objects, request.grid)
