"""Supervised contrastive learning over sketches and photos together: the baseline that every method has to beat.

With z the unit embeddings of a batch of sketches and photos, and P(i) the others of i's class in either domain::

    loss = mean over i of  − 1/|P(i)| · Σ_{p ∈ P(i)} log( exp(z_i·z_p / t) / Σ_{a ≠ i} exp(z_i·z_a / t) )

Source: Khosla et al., "Supervised contrastive learning", NeurIPS 2020 (L_out). Before the head, each domain's features
are standardised dimension by dimension, which removes any constant difference between drawings and photos; the head
itself is one linear layer for both domains.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from zsbir.arguments import Count, Natural, NonNegative, Positive, Ratio
from zsbir.backbones.base import Backbone, build_backbone
from zsbir.backbones.standard import SharedHead
from zsbir.data.preprocess import Preprocess
from zsbir.losses import supervised_contrastive_loss
from zsbir.methods import METHODS
from zsbir.methods.base import Method, Recipe, RecipeSet
from zsbir.types import Batch, Domain, Features


@METHODS.register("contrastive")
class Contrastive(Method):
    """A backbone and a linear head that both domains share, trained with the supervised contrastive loss.

    Args:
        backbone: Name, mapping or instance.
        pretrained: Load the backbone's pretrained weights.
        weights: A local weights file instead.
        head: Width of the embedding.
        dropout: Share of the features hidden from the head in a training step.
        temperature: t.
        tune: How many of the backbone's last stages train; 0: none, the head alone.
        keep: Weight, at least 0, of the standardised features beside the head's output in the embedding: what the
            backbone knows of classes that training never names.
        preprocess: Changes to how images are prepared, see `zsbir.data.preprocess.Preprocess`.

    Raises:
        ZsbirError: For more stages than the backbone has.
    """

    recipe = Recipe(
        epochs=10, batch_size=64, sampling="balanced", optimizer="adamw", lr=1e-3, weight_decay=1e-2, schedule="cosine",
        fixed_norm=True,
    )  # fmt: skip
    recipes: Mapping[str, RecipeSet] = {
        "small-data": RecipeSet({"backbone": {"name": "lite0", "pool": "stages"}, "temperature": 0.07, "keep": 0.7}, {})
    }

    def __init__(
        self,
        backbone: str | Mapping[str, Any] | Backbone = "lite0",
        pretrained: bool = False,
        weights: str | None = None,
        head: Count = 512,
        dropout: Ratio = 0.7,
        temperature: Positive = 0.1,
        tune: Natural = 0,
        keep: NonNegative = 0.0,
        preprocess: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.backbone = build_backbone(backbone, pretrained, weights)
        self.backbone.train_last(tune)
        self.head = SharedHead(self.backbone.dim, head, dropout, keep)
        self.temperature = temperature
        self.preprocess = Preprocess.of(self.backbone, preprocess)

    @property
    def trunk(self) -> Backbone:
        """The backbone, whose frozen part can be stored."""
        return self.backbone

    def param_groups(self, recipe: Recipe) -> list[dict[str, Any]]:
        """Return the head at the recipe's rate, and the backbone's trained part at a tenth of it."""
        tuned = [p for p in self.backbone.parameters() if p.requires_grad]
        return [{"params": list(self.head.parameters())}, {"params": tuned, "lr": recipe.lr / 10}]

    def embed(self, images: Tensor, domain: Domain) -> Features:
        """Return the unit embedding, with the backbone's tokens."""
        seen = self.backbone.features(self.preprocess.normalise(images))
        return Features(self.head.embed(seen.vector, domain), seen.tokens, seen.grid)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the term ``contrastive``."""
        look = self.preprocess.normalise
        vectors = self.backbone.features(torch.cat([look(batch.sketch), look(batch.photo)])).vector
        sketches, photos = vectors.split([len(batch.sketch), len(batch.photo)])
        embedded = F.normalize(torch.cat([self.head(sketches, "sketch"), self.head(photos, "photo")]), dim=1)
        label = torch.cat([batch.label, batch.photo_label])
        return {"contrastive": supervised_contrastive_loss(embedded, label, self.temperature)}
