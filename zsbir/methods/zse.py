"""ZSE: zero-shot everything, explainable.

Zero-Shot Everything Sketch-Based Image Retrieval, and in Explainable Style, CVPR 2023, and its released code.

A ViT gives the tokens of a sketch and of a photo. A cross-attention layer lets each look at the other: the query is
its own token, the key the other's, the value its own. A relation network compares the tokens of both, pair by pair.
With f the class token after the cross-attention, r(s, p) the relation network's score in (0, 1)::

    loss = 2 · max(0, ‖f(s) − f(p)‖ − ‖f(s) − f(n)‖ + 1) + 4 · MSE(r, target)      target: .99 for (s, p),
                                                                               .01 for (s, n)

To embed, the ViT alone runs (``sa`` in the paper); the relation score needs a pass for each pair, so the matcher
``relation`` takes it for the best of the cosine ranking: 15,229 sketches by 17,101 photos would be 260 million passes.

Deviations from the release:

- The patch tokens go into the convolution in their places. The release reads the (N, C) tokens as (C, h, w) without
  transposing, which mixes channels and places: ``layout="released"``.
- The pair of different classes is (s, n); the release takes a second sketch of the anchor's class for s there.
- Token reduction is off, as in the release; its rates (0.9 at three layers) are not here.
- The best checkpoint is chosen on held-out seen classes; the release chooses it on the test classes, thinned.
- The cross-attention's own norm divides by the unbiased deviation plus ε, as released.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from zsbir.arguments import Count, NonNegative, Ratio
from zsbir.backbones.base import Backbone, build_backbone
from zsbir.data.preprocess import Preprocess
from zsbir.errors import ZsbirError
from zsbir.losses import triplet_loss
from zsbir.methods import METHODS
from zsbir.methods.base import Method, Recipe
from zsbir.pairs import CrossRelation
from zsbir.types import Batch, Domain, Features


@METHODS.register("zse")
class ZSE(Method):
    """A ViT, cross-attention between sketch and photo, and a relation network that scores the pair.

    Args:
        backbone: A timm ViT: name, mapping or instance; a bare name gets the published stem.
        pretrained: Load timm's weights (needs the network once).
        weights: A local weights file instead.
        heads: Attention heads of the cross-attention.
        hidden: Its feed-forward width.
        layers: How many cross-attention layers.
        channels: Width of the relation network's tokens.
        dropout: In cross-attention and relation network.
        layout: How patch tokens become a map: ``"grid"``, or ``"released"``: see above.
        triplet: Weight of the triplet loss.
        relation: Weight of the relation loss.
        margin: Of the triplet loss.
        preprocess: Changes to how images are prepared, see `Preprocess`.

    Raises:
        ZsbirError: If the backbone has no patch tokens, or an odd number of rows or columns of them.
    """

    recipe = Recipe(epochs=30, batch_size=15, samples_per_epoch=10_000, optimizer="adamw", lr=1e-5, weight_decay=1e-2)

    def __init__(
        self,
        backbone: str | Mapping[str, Any] | Backbone = "conv-stem",
        pretrained: bool = False,
        weights: str | None = None,
        heads: Count = 8,
        hidden: Count = 1024,
        layers: Count = 1,
        channels: Count = 512,
        dropout: Ratio = 0.1,
        layout: Literal["grid", "released"] = "grid",
        triplet: NonNegative = 2.0,
        relation: NonNegative = 4.0,
        margin: NonNegative = 1.0,
        preprocess: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.encoder = build_backbone(backbone, pretrained, weights)
        if self.encoder.grid is None:
            raise ZsbirError("zse needs a backbone with patch tokens, such as 'vit_base_patch16_224'")
        self.preprocess = Preprocess.of(self.encoder, preprocess, sketch="crop-pad")
        self.relation = CrossRelation(
            self.encoder.dim, self.encoder.grid, heads, hidden, layers, channels, dropout, layout
        )
        self.weight_triplet, self.weight_relation, self.margin = triplet, relation, margin

    def embed(self, images: Tensor, domain: Domain) -> Features:
        """Return the ViT's class token (B, D) and patch tokens; the same for both domains."""
        return self.encoder(self.preprocess.normalise(images))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the weighted terms ``triplet`` and ``relation`` of a batch of triplets."""
        seen = self.embed(torch.cat(batch.triplet()), "photo")
        assert seen.tokens is not None
        rows = torch.cat([seen.vector[:, None], seen.tokens], dim=1)
        sketch, *photos = rows.chunk(3)
        drawn, shown, score = self.relation.compare(torch.cat([sketch, sketch]), torch.cat(photos))
        count = len(batch.label)
        target = torch.full_like(score, 0.01)
        target[:count] = 0.99
        return {
            "triplet": self.weight_triplet * triplet_loss(drawn[:count], shown[:count], shown[count:], self.margin),
            "relation": self.weight_relation * F.mse_loss(score, target),
        }
