"""The masker that chooses by chance."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from zsbir.maskers import MASKERS
from zsbir.maskers.base import Masker
from zsbir.maskers.select import check_choice, choose
from zsbir.types import Features


@MASKERS.register("random")
class RandomMasker(Masker):
    """Keeps random patches, drawn anew at every call: what a masker must beat.

    Args:
        ratio: Share of the patches that is masked, counted as `vxl` does.
        keep: Number of patches to keep instead.

    The draw follows torch's random state, so a seed repeats it. Stored masks hold one draw per photo.
    """

    def __init__(self, ratio: float = 0.7, keep: int | None = None) -> None:
        super().__init__()
        check_choice(ratio, keep, None)
        self.ratio, self.keep = ratio, keep

    def forward(
        self,
        images: Tensor,
        class_names: Sequence[str],
        grid: tuple[int, int],
        features: Features | None = None,
        objects: Tensor | None = None,
    ) -> Tensor:
        """Return (B, N) bool, True = keep; the same number of patches in every row."""
        scores = torch.rand(len(images), grid[0] * grid[1], device=images.device)
        return choose(scores, self.ratio, self.keep)
