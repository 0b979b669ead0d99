"""The masker that knows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from zsbir.errors import ZsbirError
from zsbir.maskers import MASKERS
from zsbir.maskers.base import Masker
from zsbir.maskers.select import check_choice, choose, coverage
from zsbir.types import Features


@MASKERS.register("oracle")
class OracleMasker(Masker):
    """Keeps the patches on the true object, where the dataset knows it: the best that a masker can do.

    Args:
        share: Keep a patch if the object covers at least this share of it, in (0, 1].
        ratio: Mask this share of the patches instead, those least covered, counted as `vxl` does.

    If the object covers no patch enough, the patch that it covers most is kept.
    """

    needs_objects = True

    def __init__(self, share: float = 0.5, ratio: float | None = None) -> None:
        super().__init__()
        if not 0 < share <= 1:
            raise ZsbirError(f"share={share} must be in (0, 1]: it is the share of a patch that the object covers")
        check_choice(ratio or 0.0, None, None)
        self.share, self.ratio = share, ratio

    def forward(
        self,
        images: Tensor,
        class_names: Sequence[str],
        grid: tuple[int, int],
        features: Features | None = None,
        objects: Tensor | None = None,
    ) -> Tensor:
        """Return (B, N) bool, True = keep, from `objects` (B, H, W)."""
        covered = self.heatmap(images, class_names, grid, features, objects)
        if self.ratio is not None:
            return choose(covered, self.ratio)
        best = torch.zeros_like(covered, dtype=torch.bool).scatter(1, covered.argmax(1, keepdim=True), True)
        return (covered >= self.share) | best

    def heatmap(
        self,
        images: Tensor,
        class_names: Sequence[str],
        grid: tuple[int, int],
        features: Features | None = None,
        objects: Tensor | None = None,
    ) -> Tensor:
        """Return (B, N) float: the share of each patch that the object covers.

        Raises:
            ZsbirError: If `objects` is None.
        """
        if objects is None:
            raise ZsbirError(
                "the masker 'oracle' needs the true object masks, which this dataset does not have: use 'openmoji', or "
                "another masker"
            )
        return coverage(objects, grid)
