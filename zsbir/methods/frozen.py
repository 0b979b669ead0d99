"""A pretrained backbone as it is: the baseline that training must beat, and search without training."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zsbir.backbones import BACKBONES
from zsbir.backbones.base import Backbone
from zsbir.backbones.norms import adapt_norms
from zsbir.data.edges import edge_maps
from zsbir.data.preprocess import Preprocess
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
        scale: Divide by the domain's standard deviation, dimension by dimension, as well: as a BatchNorm layer for each
            domain would. `align` measures it; a tenth of the mean deviation is added, so that no dimension blows up.
        remove: How many directions to project out besides, those in which the variances of the domains differ most.
        photos: How a photo is seen: ``"plain"``, as ``"edges"`` (its edge map, see `zsbir.data.edges`: a line drawing
            is closer to a sketch than the photo is), or ``"both"``, the sum of the two unit vectors.
        sketch_norms: Share of the BatchNorm statistics with which sketches are embedded that come from sketches, which
            `adapt` must have measured, in [0, 1]; 0: sketches and photos go through the same network.
        preprocess: What is prepared otherwise than the backbone expects, see `zsbir.data.preprocess.Preprocess`.

    Raises:
        ZsbirError: For more directions than dimensions, an unknown view, ``remove`` with two views of a photo or
            with ``scale``, or a share out of range.
    """

    def __init__(
        self,
        backbone: str | Mapping[str, Any] | Backbone = "vit_base_patch16_224",
        pretrained: bool = False,
        weights: str | None = None,
        center: bool = False,
        remove: int = 0,
        photos: Literal["plain", "edges", "both"] = "plain",
        sketch_norms: float = 0.0,
        scale: bool = False,
        preprocess: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        extra: dict[str, Any] = {}
        if pretrained:
            extra["pretrained"] = True
        if weights:
            extra["weights"] = weights
        self.backbone = BACKBONES.build(backbone, **extra)
        self.backbone.requires_grad_(False)
        self.preprocess = Preprocess.of(self.backbone, preprocess)
        if not 0 <= remove < self.backbone.dim:
            raise ZsbirError(
                f"remove={remove} must be at least 0 and below the backbone's {self.backbone.dim} dimensions"
            )
        if remove and scale:
            raise ZsbirError("remove projects out directions of the plain features: give remove or scale, not both")
        if remove and photos == "both":
            raise ZsbirError(
                "remove compares the domains' variances in one space: it has no meaning with photos='both'"
            )
        if not 0 <= sketch_norms <= 1:
            raise ZsbirError(f"sketch_norms={sketch_norms} must lie between 0 and 1")
        self.center, self.photos, self.sketch_norms = center, photos, sketch_norms
        # A second set of weights that differs in its statistics alone.
        self.of_sketches = copy.deepcopy(self.backbone) if sketch_norms else None
        self.scale = scale
        # Of sketches and photos; with two views of a photo, of sketches, photos and edge maps.
        views = 3 if photos == "both" else 2
        self.means: nn.Buffer = nn.Buffer(torch.zeros(views, self.backbone.dim))
        if scale:
            self.deviations: nn.Buffer = nn.Buffer(torch.ones(views, self.backbone.dim))
        self.directions: nn.Buffer = nn.Buffer(torch.zeros(remove, self.backbone.dim))

    def embed(self, images: Tensor, domain: Domain) -> Features:
        """Return the backbone's features of (B, 3, H, W) float32 images in [0, 1], aligned as asked for.

        The tokens are those of the image itself, or of its edge map with ``photos="edges"``.
        """
        if domain == "sketch" or self.photos == "plain":
            return self._aligned(images, int(domain == "photo"))
        drawn = edge_maps(images)
        if self.photos == "edges":
            return self._aligned(drawn, 1)
        plain = self._aligned(images, 1)
        vector = F.normalize(plain.vector, dim=1) + F.normalize(self._aligned(drawn, 2).vector, dim=1)
        return Features(vector, plain.tokens, plain.grid)

    def _aligned(self, images: Tensor, view: int) -> Features:
        """Return the features without the mean in row `view`, and without the directions."""
        backbone = self.backbone if view or self.of_sketches is None else self.of_sketches
        features: Features = backbone(self.preprocess.normalise(images))
        vector = features.vector
        if self.center:
            vector = vector - self.means[view]
        if self.scale:
            vector = vector / self.deviations[view]
        if len(self.directions):
            vector = vector - vector @ self.directions.T @ self.directions
        return Features(vector, features.tokens, features.grid)

    def adapt(self, sketches: Iterable[Tensor]) -> None:
        """Measure BatchNorm statistics on sketches of *seen* classes; no label is used. Before `align`.

        Args:
            sketches: Batches (B, 3, H, W) float32 in [0, 1] of some dozens of sketches of mixed classes each.

        Raises:
            ZsbirError: If ``sketch_norms`` is 0, or the backbone has no BatchNorm.
        """
        if self.of_sketches is None:
            raise ZsbirError("adapt measures the statistics that sketch_norms asks for, and sketch_norms is 0")
        self.of_sketches.load_state_dict(self.backbone.state_dict())
        adapt_norms(self.of_sketches, map(self.preprocess.normalise, sketches), self.sketch_norms)

    def align(self, sketches: Tensor, photos: Tensor, edges: Tensor | None = None) -> None:
        """Measure the domains on features of *seen* classes; no label is used.

        Args:
            sketches: (n, D) float features of the plain backbone.
            photos: (m, D) float, likewise, of the photos as this method sees them (edge maps with ``"edges"``).
            edges: (m, D) float, likewise, of the edge maps; for ``photos="both"`` alone.

        Raises:
            ZsbirError: If `edges` is missing or not wanted.

        The directions are the eigenvectors of ``cov(sketches) − cov(photos)`` with the largest absolute eigenvalues:
        a linear domain classifier has nothing to hold on to in what is left of first and second moments there.
        """
        sides = [sketches, photos] if edges is None else [sketches, photos, edges]
        if len(sides) != len(self.means):
            raise ZsbirError("align takes the features of edge maps with photos='both', and only then")
        self.means.copy_(torch.stack([side.mean(dim=0) for side in sides]))
        if self.scale:
            deviations = torch.stack([side.std(dim=0) for side in sides])
            self.deviations.copy_(deviations + 0.1 * deviations.mean(dim=1, keepdim=True))
        if len(self.directions):
            values, vectors = torch.linalg.eigh(torch.cov(sketches.double().T) - torch.cov(photos.double().T))
            chosen = values.abs().topk(len(self.directions)).indices
            self.directions.copy_(vectors[:, chosen].T)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Raise ZsbirError: there is nothing to train."""
        raise ZsbirError("the method 'frozen' has nothing to train: evaluate it as it is, or train dann, puxim or sbka")
