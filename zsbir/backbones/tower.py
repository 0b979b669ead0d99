"""A tower: a backbone, the pooling of its feature map, and a projection head."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from zsbir.backbones.base import Backbone
from zsbir.backbones.standard import Standard
from zsbir.types import Features


class Tower(nn.Module):
    """A backbone, the pooling of its last feature map, and a projection head.

    Args:
        backbone: Given to more than one tower, it is shared.
        pool: ``"max"`` over the feature map as published, or ``"model"``: the backbone's own vector.
        head: Widths of a projection head's layers (ReLU between); empty: none, as published.
        unit: L2-normalise the vector.
        standardise: Standardise the pooled vector, see `zsbir.backbones.standard.Standard`.
        dropout: Share of the pooled vector that the head does not see in a training step.
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
