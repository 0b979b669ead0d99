"""Masks from the attention of the encoder that trains."""

from __future__ import annotations

from torch import Tensor

from zsbir.errors import ZsbirError
from zsbir.maskers import MASKERS
from zsbir.maskers._select import ScoreMasker
from zsbir.maskers.base import MaskRequest


@MASKERS.register("attention")
class AttentionMasker(ScoreMasker):
    """Keeps the patches that the encoder's class token attends to most; no text, no second model.

    Args:
        ratio: Share of the patches that is masked, counted as `vxl` does.
        keep: Number of patches to keep instead.
        threshold: Keep instead the patches above it, in maps scaled to [0, 1].

    The attention is that of the encoder's last block, mean over heads. It changes as the encoder trains, so these
    masks cannot be stored.
    """

    needs_attention = True
    depends_on_backbone = True

    def heatmap(self, request: MaskRequest) -> Tensor:
        """Return (B, N) float: ``features.attention`` itself, without gradient.

        Raises:
            ZsbirError: If the features have no attention, or it is on another grid.
        """
        if request.features is None or request.features.attention is None:
            raise ZsbirError("the masker 'attention' needs the encoder's attention: use a timm ViT with a class token")
        attention = request.features.attention.detach().float()
        if attention.shape != request.shape:
            seen, wanted = attention.shape[1], request.shape[1]
            raise ZsbirError(f"the attention is over {seen} patches, but the grid {request.grid} has {wanted}")
        return attention
