"""modality-aware: one meaning, one vector a modality (WACV 2024, and its released code, MA-ZS-SBIR).

CLIP learns on (sketch, caption) and (photo, caption) pairs with its own contrastive loss, together with a vector e_m
for each modality m, so that embedding − e_m is the meaning. A sketch is exchanged for a "photo": − e_sketch +
e_photo. No loss compares sketches with photos, so no pairs of them are needed; and texts lie in the same space, so a
query may combine a sketch and a text. With x the image's and t the text's unit feature, i and j their
modalities, c = norm(x + t)::

    L_clip   = contrastive loss of x and t, over the batch
    L_centre = [1 − cos(x − e_i, c)] + [1 − cos(t − e_j, c)]
    L_disc   = ½ [CE(D(norm(x − e_i + e_m)), m), m ≠ i] + ½ [CE(D(norm(t − e_j + e_m)), m), m ≠ j]
    L_rec    = [1 − cos(t − e_j + e_i, x)] + [1 − cos(x − e_i + e_j, t)]
    L_orth   = mean over m of |c ⊙ e_m|₁
    loss     = (1·L_clip + 0.1·L_centre + 0.1·L_disc + 0.02·L_rec + 0·L_orth) / the sum of the weights that are not 0

Deviations from the release:

- The best checkpoint is chosen on held-out seen classes; the release takes the lowest loss on the test part when no
  class is held out, its default. Its class selection fills the first dataset only; here one dataset trains.
- The published warm-up is 5 % of all steps, which the recipe takes in steps: ``--recipe warmup=N``.
- Sketches and photos are drawn in equal numbers; the release goes through one list of all pairs, in order.
- A fourth modality, a second kind of text, is part of the release's discriminator and of no pair: ``modalities=4``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zsbir.arguments import NonNegative
from zsbir.backbones.open_clip import clip_source
from zsbir.clip import clip_tokenizer, create_clip, image_input
from zsbir.data.preprocess import Preprocess
from zsbir.errors import ZsbirError
from zsbir.methods import METHODS
from zsbir.methods.base import Method, Recipe
from zsbir.types import Batch, Domain, Features

_PHOTO, _SKETCH = 0, 1


@METHODS.register("modality-aware")
class ModalityAware(Method):
    """CLIP with a vector for each modality: a sketch minus its vector plus the photos' is searched as a photo.

    Args:
        model: An open_clip model: name, or its configuration as a mapping.
        pretrained: Load OpenAI's weights (needs the network once).
        weights: A local file with CLIP's weights instead.
        modalities: How many vectors: photo, sketch, and one or two kinds of text; the last kind is paired with images.
        exchange: Embed a sketch as the photo it stands for; False: as CLIP does (the release reports both).
        weight_clip: Weight of L_clip.
        weight_centre: Weight of L_centre.
        weight_discriminator: Weight of L_disc.
        weight_reconstruction: Weight of L_rec.
        weight_orthogonality: Weight of L_orth.
        scale: Logarithm of CLIP's logit scale at the start.
        clip_lr: Learning rate of CLIP, as a share of the recipe's.
        preprocess: Changes to how images are prepared, see `Preprocess`.

    Raises:
        ZsbirError: If there are fewer than three modalities, or all weights are 0.
    """

    recipe = Recipe(
        epochs=100, batch_size=256, sampling="mixed", sketch_share=0.5, optimizer="adamw", lr=5e-3, weight_decay=0.1
    )

    def __init__(
        self,
        model: str | Mapping[str, Any] = "ViT-B-32-quickgelu",
        pretrained: bool = False,
        weights: str | None = None,
        modalities: int = 4,
        exchange: bool = True,
        weight_clip: NonNegative = 1.0,
        weight_centre: NonNegative = 0.1,
        weight_discriminator: NonNegative = 0.1,
        weight_reconstruction: NonNegative = 0.02,
        weight_orthogonality: NonNegative = 0.0,
        scale: float = 2.6592,
        clip_lr: NonNegative = 1e-5,
        preprocess: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.weights = {
            "clip": weight_clip, "centre": weight_centre, "discriminator": weight_discriminator,
            "reconstruction": weight_reconstruction, "orthogonality": weight_orthogonality,
        }  # fmt: skip
        if modalities < 3 or not any(self.weights.values()):
            raise ZsbirError("modality-aware: modalities must be at least 3, and one of the weights above 0")
        self.clip = create_clip(model, clip_source(pretrained, weights))
        self.clip.requires_grad_(True)
        self.clip.logit_scale.data.fill_(scale)
        self.tokens = clip_tokenizer(model)
        side, mean, std = image_input(self.clip.visual)
        self.preprocess = Preprocess.of(SimpleNamespace(image_size=side, mean=mean, std=std), preprocess)
        width = self.clip.text_projection.shape[-1]
        self.vectors = nn.Parameter(torch.randn(modalities, width))
        self.discriminator = nn.Linear(width, modalities)
        self.exchange, self.clip_lr = exchange, clip_lr

    def embed(self, images: Tensor, domain: Domain) -> Features:
        """Return (B, D) features: a photo's as it is, a sketch's exchanged for a photo's."""
        feature = self._images(images)
        if domain == "sketch" and self.exchange:
            feature = feature - self.vectors[_SKETCH] + self.vectors[_PHOTO]
        return Features(feature)

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Return (n, D) features of texts, exchanged for photos' like a sketch's: the two may be mixed."""
        feature = self._texts(texts)
        return feature - self.vectors[-1] + self.vectors[_PHOTO] if self.exchange else feature

    def _images(self, images: Tensor) -> Tensor:
        return F.normalize(self.clip.encode_image(self.preprocess.normalise(images)), dim=1)

    def _texts(self, texts: Sequence[str]) -> Tensor:
        return F.normalize(self.clip.encode_text(self.tokens(list(texts)).to(self.vectors.device)), dim=1)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the weighted terms ``clip``, ``centre``, ``discriminator``, ``reconstruction``, ``orthogonality``."""
        image = self._images(torch.cat([batch.sketch, batch.photo]))
        captions = [f"a sketch of a {name}" for name in batch.names(batch.label)]
        captions += [f"a photo of a {name}" for name in batch.names(batch.photo_label)]
        kind = torch.full((len(image),), _PHOTO, device=image.device)
        kind[: len(batch.label)] = _SKETCH
        terms = self.terms(image, self._texts(captions), kind)
        total = sum(weight for weight in self.weights.values() if weight > 0)
        return {name: self.weights[name] / total * value for name, value in terms.items() if self.weights[name] > 0}

    def terms(self, image: Tensor, text: Tensor, kind: Tensor) -> dict[str, Tensor]:
        """Return the losses, not weighted.

        Args:
            image: (B, D) unit features.
            text: (B, D) unit features of the captions.
            kind: (B,) int64, each image's modality.
        """
        e, word = self.vectors, self.vectors[-1]
        centre = F.normalize(image + text, dim=1)
        meaning, said = image - e[kind], text - word
        row = torch.arange(len(image), device=image.device)
        logits = self.clip.logit_scale.exp() * image @ text.T
        last = torch.full_like(kind, len(e) - 1)
        return {
            "clip": (F.cross_entropy(logits, row) + F.cross_entropy(logits.T, row)) / 2,
            "centre": _apart(meaning, centre) + _apart(said, centre),
            "discriminator": (self._told_apart(meaning, kind) + self._told_apart(said, last)) / 2,
            "reconstruction": _apart(said + e[kind], image) + _apart(meaning + word, text),
            "orthogonality": (centre[:, None] * e).abs().sum(dim=2).mean(),
        }

    def _told_apart(self, meaning: Tensor, own: Tensor) -> Tensor:
        """Return the discriminator's cross-entropy on a meaning (B, D) in every modality but its own (B,)."""
        everywhere = F.normalize(meaning[:, None] + self.vectors, dim=2)
        label = torch.arange(len(self.vectors), device=own.device).repeat(len(own), 1)
        label[label == own[:, None]] = -1
        return F.cross_entropy(self.discriminator(everywhere).flatten(0, 1), label.flatten(), ignore_index=-1)

    def param_groups(self, recipe: Recipe) -> list[dict[str, Any]]:
        """Return vectors and discriminator at the recipe's rate, CLIP at its own share of it."""
        return [
            {"params": [self.vectors, *self.discriminator.parameters()]},
            {"params": list(self.clip.parameters()), "lr": recipe.lr * self.clip_lr},
        ]


def _apart(a: Tensor, b: Tensor) -> Tensor:
    return (1 - F.cosine_similarity(a, b)).mean()
