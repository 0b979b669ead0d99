"""A tower: a backbone, the pooling of its feature map, and a projection head."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zsbir.backbones.base import Backbone
from zsbir.types import Features

MOST_KEPT = 200_000
"""Files whose features a frozen tower keeps: 1 GB at 1280 numbers each."""


class Tower(nn.Module):
    """A backbone, the pooling of its last feature map, and a projection head.

    Args:
        backbone: Given to more than one tower, it is shared.
        pool: ``"max"`` over the feature map as published, or ``"model"``: the backbone's own vector.
        head: Widths of a projection head's layers (ReLU between); empty: none, as published.
        unit: L2-normalise the vector.
        frozen: The backbone does not train, and stays in evaluation mode.
    """

    def __init__(self, backbone: Backbone, pool: str, head: Sequence[int], unit: bool, frozen: bool) -> None:
        super().__init__()
        self.backbone = backbone
        self.pool = pool
        self.unit = unit
        self.frozen = frozen
        width = self._width()
        layers: list[nn.Module] = []
        for i, size in enumerate(head):
            layers += [nn.ReLU()] if i else []
            layers.append(nn.Linear(width, size))
            width = size
        self.head = nn.Sequential(*layers)
        self.dim = width
        self._kept: dict[str, Tensor] = {}

    def _width(self) -> int:
        if self.pool == "model":
            return self.backbone.dim
        # The width of the tokens is not part of a backbone's contract: ask it.
        was_training = self.backbone.training
        self.backbone.eval()
        size = self.backbone.image_size
        with torch.no_grad():
            tokens = self.backbone(torch.zeros(1, 3, size, size)).tokens
        self.backbone.train(was_training)
        return self.backbone.dim if tokens is None else tokens.shape[2]

    def train(self, mode: bool = True) -> Tower:
        """Switch the mode, but not that of a frozen backbone."""
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self

    def features(self, images: Tensor) -> Features:
        """Return the pooled features of (B, 3, H, W) images, before the head."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            seen: Features = self.backbone(images)
        if self.pool == "model" or seen.tokens is None:
            return seen
        return Features(seen.tokens.amax(dim=1), seen.tokens, seen.grid)

    def project(self, vector: Tensor) -> Tensor:
        """Return the embedding (B, dim) of pooled features (B, D)."""
        out: Tensor = self.head(vector)
        return F.normalize(out.float(), dim=1) if self.unit else out

    def forward(self, images: Tensor, files: Sequence[str] | None = None) -> Tensor:
        """Return the embedding (B, dim) of (B, 3, H, W) images.

        Args:
            images: Normalised, as the backbone takes them.
            files: Names that determine the images, (B,): a frozen tower then computes each one's features once.
        """
        if not self.frozen or files is None or len(files) != len(images):
            return self.project(self.features(images).vector)
        rows = {file: row for row, file in enumerate(files) if file not in self._kept}
        if rows:
            fresh = self.features(images[list(rows.values())]).vector.detach()
            self._kept.update(zip(rows, fresh.unbind(), strict=True))
        vectors = torch.stack([self._kept[file] for file in files]).to(images.device)
        # Features of very many files would fill the device: start over, which costs time alone.
        if len(self._kept) > MOST_KEPT:
            self._kept.clear()
        return self.project(vectors)
