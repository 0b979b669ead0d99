"""The backbone contract."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from zsbir.types import Features


class Backbone(nn.Module):
    """Images to features.

    Attributes:
        dim: Width ``D`` of ``Features.vector``.
        grid: Patch grid (h, w) of ``Features.tokens``, or None for a backbone without tokens.
        image_size: Side of the square input in pixels.
        mean: Per channel, of images in [0, 1], as the weights expect.
        std: Likewise.
        spec: What `BACKBONES.build` recorded.
    """

    dim: int
    grid: tuple[int, int] | None
    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    spec: dict[str, Any]

    def forward(self, images: Tensor) -> Features:
        """Return the features of (B, 3, H, W) float32 normalised images."""
        raise TypeError(f"{type(self).__name__} has no forward")

    def with_attention(self, images: Tensor) -> Features:
        """Return the features with ``attention`` filled; backbones without a class token raise ZsbirError."""
        from zsbir.errors import ZsbirError

        raise ZsbirError(f"the backbone {type(self).__name__} has no class-token attention; use a timm ViT")
