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
    """A backbone's features without training, optionally with what tells the domains apart removed.

    Args:
        backbone: Name, mapping or instance.
        pretrained: Load the backbone's pretrained weights.
        weights: A local weights file instead.
        center: Subtract the domain's mean, which `align` must have measured: the cheapest domain adaptation.
        remove: How many directions to project out besides, those in which the variances of the domains differ most.
    """

    def __init__(
        self,
        backbone: str | Mapping[str, Any] | Backbone = "vit_base_patch16_224",
        pretrained: bool = False,
        weights: str | None = None,
        center: bool = False,
        remove: int = 0,
    ) -> None:
        super().__init__()
        extra: dict[str, Any] = {}
        if pretrained:
            extra["pretrained"] = True
        if weights:
            extra["weights"] = weights
        self.backbone = BACKBONES.build(backbone, **extra)
        self.backbone.requires_grad_(False)
        self.image_size = self.backbone.image_size
        self.mean, self.std = self.backbone.mean, self.backbone.std
        if not 0 <= remove < self.backbone.dim:
            raise ZsbirError(
                f"remove={remove} must be at least 0 and below the backbone's {self.backbone.dim} dimensions"
            )
        self.center = center
        self.means: nn.Buffer = nn.Buffer(torch.zeros(2, self.backbone.dim))
        self.directions: nn.Buffer = nn.Buffer(torch.zeros(remove, self.backbone.dim))

    def embed(self, images: Tensor, domain: Domain) -> Features:
        """Return the backbone's features of (B, 3, H, W) float32 normalised images, aligned as asked for."""
        features: Features = self.backbone(images)
        vector = features.vector
        if self.center:
            vector = vector - self.means[int(domain == "photo")]
        if len(self.directions):
            vector = vector - vector @ self.directions.T @ self.directions
        return Features(vector, features.tokens, features.grid)

    def align(self, sketches: Tensor, photos: Tensor) -> None:
        """Measure the domains on features of *seen* classes; no label is used.

        Args:
            sketches: (n, D) float features of the plain backbone.
            photos: (m, D) float, likewise.

        The directions are the eigenvectors of ``cov(sketches) − cov(photos)`` with the largest absolute eigenvalues:
        a linear domain classifier has nothing to hold on to in what is left of first and second moments there.
        """
        self.means.copy_(torch.stack([sketches.mean(dim=0), photos.mean(dim=0)]))
        if len(self.directions):
            values, vectors = torch.linalg.eigh(torch.cov(sketches.double().T) - torch.cov(photos.double().T))
            chosen = values.abs().topk(len(self.directions)).indices
            self.directions.copy_(vectors[:, chosen].T)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Raise ZsbirError: there is nothing to train."""
        raise ZsbirError("the method 'frozen' has nothing to train: evaluate it as it is, or train dann, puxim or sbka")
