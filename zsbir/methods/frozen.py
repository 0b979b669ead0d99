"""A pretrained backbone as it is: the baseline that training must beat, and search without training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from zsbir.backbones import BACKBONES
from zsbir.backbones.base import Backbone
from zsbir.errors import ZsbirError
from zsbir.methods import METHODS
from zsbir.methods.base import Method
from zsbir.types import Batch, Domain, Features


@METHODS.register("frozen")
class Frozen(Method):
    """A backbone's features without training, optionally with each domain's mean removed.

    Args:
        backbone: Name, mapping or instance.
        pretrained: Load the backbone's pretrained weights.
        weights: A local weights file instead.
        center: Subtract the domain's mean, which `fit_means` must have measured: the cheapest domain adaptation.
    """

    def __init__(
        self,
        backbone: str | Mapping[str, Any] | Backbone = "vit_base_patch16_224",
        pretrained: bool = False,
        weights: str | None = None,
        center: bool = False,
    ) -> None:
        super().__init__()
        extra: dict[str, Any] = {
            **({"pretrained": True} if pretrained else {}),
            **({"weights": weights} if weights else {}),
        }
        self.backbone = BACKBONES.build(backbone, **extra)
        self.backbone.requires_grad_(False)
        self.image_size = self.backbone.image_size
        self.mean, self.std = self.backbone.mean, self.backbone.std
        self.center = center
        self.means: nn.Buffer = nn.Buffer(torch.zeros(2, self.backbone.dim))

    def embed(self, images: Tensor, domain: Domain) -> Features:
        """Return the backbone's features of (B, 3, H, W) float32 normalised images."""
        features: Features = self.backbone(images)
        if not self.center:
            return features
        return Features(features.vector - self.means[int(domain == "photo")], features.tokens, features.grid)

    def fit_means(self, sketches: Tensor, photos: Tensor) -> None:
        """Measure the means of each domain from (n, D) features of *seen* classes, embedded with ``center=False``."""
        self.means.copy_(torch.stack([sketches.mean(dim=0), photos.mean(dim=0)]))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Raise ZsbirError: there is nothing to train."""
        raise ZsbirError("the method 'frozen' has nothing to train: evaluate it as it is, or train dann, puxim or sbka")
