"""The masker that asks the encoder itself."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from zsbir.errors import ZsbirError
from zsbir.maskers import MASKERS
from zsbir.maskers.base import Masker
from zsbir.maskers.select import check_choice, choose
from zsbir.types import Features


@MASKERS.register("attention")
class AttentionMasker(Masker):
    """Keeps the patches that the encoder's class token attends to most; no text, no second model.

    Args:
        ratio: Share of the patches that is masked, counted as `vxl` does.
        keep: Number of patches to keep instead.
        threshold: Keep what exceeds it instead, in maps scaled to [0, 1].

    The attention is that of the encoder's last block, mean over heads. It changes as the encoder trains, so these
    masks cannot be stored.
    """

    needs_attention = True
    depends_on_backbone = True

    def __init__(self, ratio: float = 0.7, keep: int | None = None, threshold: float | None = None) -> None:
        super().__init__()
        check_choice(ratio, keep, threshold)
        self.ratio, self.keep, self.threshold = ratio, keep, threshold

    def forward(
        self,
        images: Tensor,
        class_names: Sequence[str],
        grid: tuple[int, int],
        features: Features | None = None,
        objects: Tensor | None = None,
    ) -> Tensor:
        """Return (B, N) bool, True = keep, from ``features.attention`` (B, N)."""
        return choose(self.heatmap(images, class_names, grid, features), self.ratio, self.keep, self.threshold)

    def heatmap(
        self,
        images: Tensor,
        class_names: Sequence[str],
        grid: tuple[int, int],
        features: Features | None = None,
        objects: Tensor | None = None,
    ) -> Tensor:
        """Return (B, N) float: the attention itself, without gradient.

        Raises:
            ZsbirError: If the features have no attention, or it is on another grid.
        """
        if features is None or features.attention is None:
            raise ZsbirError("the masker 'attention' needs the encoder's attention: use a timm ViT with a class token")
        attention = features.attention.detach().float()
        if attention.shape[1] != grid[0] * grid[1]:
            raise ZsbirError(f"the attention is over {attention.shape[1]} patches, the grid {grid} has another number")
        return attention
