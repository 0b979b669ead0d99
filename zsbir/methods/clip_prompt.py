"""clip-prompt: sketch and photo prompts for CLIP.

CLIP for All Things Zero-Shot Sketch-Based Image Retrieval, CVPR 2023.

CLIP's image encoder stays as it is; K vectors v_d are appended to its token row, after the position embedding and
before the first norm, one set for sketches and one for photos. The prompts and the LayerNorms learn. With f_d(x) the
projected class token, a sketch s, a photo p of its class, a photo n of another, π and π′ permutations of the patches,
and t_c the text feature of "a photo of a {class}"::

    row  = [class, patches, v_d]
    loss = max(0, cos-dist(f(s), f(p)) − cos-dist(f(s), f(n)) + margin)
         + text · (CE(scale·cos(f(s), t), class) + CE(scale·cos(f(p), t), class))
         + shuffle · max(0, cos-dist(f(π s), f(π p)) − cos-dist(f(π s), f(π′ p)) + margin)

The official code (Sketch_LVM) has the first term only. The text term is in the paper's figure and in a second
implementation (ClipPrompt, with weight 0.5 and margin 0.3). The fine-grained part was never released: ``common=True``
(one set of prompts for both domains) and `shuffle` follow the paper's abstract and figure; its term on the distribution
of relative distances is left out.

Deviations from the official code:

- Only the LayerNorms train beside the prompts. There, all parameters not called weight or bias train too (the
  attention's input maps, the embeddings, the projection), at 1e-6, unlike in the paper: ``train="released"``.
- Sketches are drawn in random order, not class by class; the best checkpoint is chosen on held-out seen classes, not
  by the loss on the unseen ones.
- Images are normalised as CLIP expects; both codes take ImageNet's statistics: ``preprocess``.
- ClipPrompt puts the prompts before the class token, and so reads the first prompt as the embedding, and uses CLIP's
  logit scale without its exponential; here the class token is read and the scale is CLIP's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zsbir.arguments import Count, NonNegative
from zsbir.backbones import BACKBONES
from zsbir.clip import clip_tokenizer, create_clip
from zsbir.data.preprocess import Preprocess
from zsbir.errors import ZsbirError
from zsbir.losses import cosine_triplet_loss
from zsbir.methods import METHODS
from zsbir.methods.base import Method, Recipe
from zsbir.types import Batch, Domain, Features

_RELEASED = ("in_proj_weight", "in_proj_bias", "class_embedding", "positional_embedding", "proj")
"""Last names of the parameters that the official code trains unlike the paper."""


@METHODS.register("clip-prompt")
class ClipPrompt(Method):
    """CLIP with learned prompts for sketches and photos, its LayerNorms trained, and a cosine triplet loss.

    Args:
        model: An open_clip ViT: name, or its configuration as a mapping.
        pretrained: Load OpenAI's weights (needs the network once).
        weights: A local file with CLIP's weights instead.
        prompts: K, at least 1.
        common: One set of prompts for both domains (fine-grained retrieval).
        train: What trains beside the prompts: ``"layernorm"`` as in the paper; ``"released"``: see above.
        margin: Of the triplet loss, in cosine distance.
        text: Weight of the text classification; 0: without, and without CLIP's text tower.
        shuffle: Weight of the patch-shuffling triplets (fine-grained retrieval); 0: without.
        encoder_lr: Learning rate of CLIP's own parameters, as a share of the recipe's.
        preprocess: Changes to how images are prepared, see `Preprocess`.

    Raises:
        ZsbirError: If the model is no ViT, or a number is out of range.
    """

    recipe = Recipe(epochs=60, batch_size=192, lr=1e-4)

    def __init__(
        self,
        model: str | Mapping[str, Any] = "ViT-B-32-quickgelu",
        pretrained: bool = False,
        weights: str | None = None,
        prompts: Count = 3,
        common: bool = False,
        train: Literal["layernorm", "released"] = "layernorm",
        margin: NonNegative = 0.2,
        text: NonNegative = 0.0,
        shuffle: NonNegative = 0.0,
        encoder_lr: NonNegative = 0.01,
        preprocess: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        encoder: Any = BACKBONES.build({"name": "open-clip", "model": model}, pretrained=pretrained, weights=weights)
        if encoder.grid is None:
            raise ZsbirError(f"clip-prompt needs a CLIP whose image tower is a ViT, not {model!r}")
        self.encoder: Any = encoder
        self.preprocess = Preprocess.of(encoder, preprocess, sketch="pad-black", photo="pad-black")
        self.margin, self.text, self.shuffle, self.encoder_lr = margin, text, shuffle, encoder_lr
        self.model, self.source = model, weights if weights is not None else "openai" if pretrained else None
        width = encoder.visual.class_embedding.shape[0]
        self.prompts = nn.Parameter(torch.randn(1 if common else 2, prompts, width))
        encoder.visual.ln_pre.register_forward_pre_hook(self._append)
        self._domain = 0
        self._texts: dict[tuple[str, ...], tuple[Tensor, float]] = {}
        for name, parameter in encoder.named_parameters():
            parameter.requires_grad_(train == "released" and name.split(".")[-1] in _RELEASED)
        for module in encoder.modules():
            if isinstance(module, nn.LayerNorm):
                module.requires_grad_(True)

    def _append(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
        """Append the domain's prompts to the row (B, 1 + N, C) on its way into the first norm."""
        row = inputs[0]
        prompts = self.prompts[min(self._domain, len(self.prompts) - 1)].to(row.dtype)
        return torch.cat([row, prompts.expand(row.shape[0], -1, -1)], dim=1)

    def embed(self, images: Tensor, domain: Domain) -> Features:
        """Return CLIP's image feature (B, D) with the domain's prompts, and the patch tokens."""
        self._domain = int(domain == "photo")
        pooled, tokens = self.encoder.visual(self.preprocess.normalise(images))
        return Features(pooled, tokens[:, : -self.prompts.shape[1]], self.encoder.grid)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the terms ``triplet`` and, where they have weight, ``text`` and ``shuffle``."""
        domains: tuple[Domain, ...] = ("sketch", "photo", "photo")
        sketch, photo, negative = (self.embed(x, d).vector for x, d in zip(batch.triplet(), domains, strict=True))
        terms = {"triplet": cosine_triplet_loss(sketch, photo, negative, self.margin)}
        if self.text:
            texts, scale = self._text_features(batch.classes, sketch.device)
            both = F.normalize(torch.cat([sketch, photo]).float(), dim=1)
            label = torch.cat([batch.label, batch.photo_label])
            terms["text"] = self.text * 2 * F.cross_entropy(scale * both @ texts.T, label)
        if self.shuffle:
            n = self.encoder.grid[0] * self.encoder.grid[1]
            one, other = torch.randperm(n, device=sketch.device), torch.randperm(n, device=sketch.device)
            anchor = self.embed(self._shuffled(batch.sketch, one), "sketch").vector
            right, wrong = (self.embed(self._shuffled(batch.photo, order), "photo").vector for order in (one, other))
            terms["shuffle"] = self.shuffle * cosine_triplet_loss(anchor, right, wrong, self.margin)
        return terms

    def _shuffled(self, images: Tensor, order: Tensor) -> Tensor:
        """Return (B, 3, S, S) images with their patches in another order."""
        h, w = self.encoder.grid
        sides = images.shape[2] // h, images.shape[3] // w
        patches = F.unfold(images, sides, stride=sides)[:, :, order]
        return F.fold(patches, (h * sides[0], w * sides[1]), sides, stride=sides)

    @torch.no_grad()
    def _text_features(self, classes: tuple[str, ...], device: torch.device) -> tuple[Tensor, float]:
        """Return the unit text features (C, D) of the classes, made once, and CLIP's scale."""
        if classes not in self._texts:
            clip, tokens = create_clip(self.model, self.source), clip_tokenizer(self.model)
            found = clip.encode_text(tokens([f"a photo of a {name}" for name in classes]), normalize=True)
            self._texts = {classes: (found.to(device), float(clip.logit_scale.exp()))}
        return self._texts[classes]

    def param_groups(self, recipe: Recipe) -> list[dict[str, Any]]:
        """Return the prompts at the recipe's rate, and the trained part of CLIP at `encoder_lr` times it."""
        encoder = [p for p in self.encoder.parameters() if p.requires_grad]
        return [{"params": [self.prompts]}, {"params": encoder, "lr": recipe.lr * self.encoder_lr}]
