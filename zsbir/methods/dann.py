"""DANN: a triplet loss between sketches and photos, and a domain classifier behind a gradient reversal.

The published system is the repository "zero-shot-sketch-based-image-retrieval" (a domain adversarial network for
zero-shot SBIR). With f_s and f_p the towers of the two domains, D the domain classifier, a sketch s, a photo p of its
class and a photo n of another::

    loss = triplet_loss_ratio · max(0, ‖f_s(s) − f_p(p)‖ − ‖f_s(s) − f_p(n)‖ + margin)
         + domain_loss_ratio · [BCE(D(R(f_p(p))), 1) + BCE(D(R(f_p(n))), 1) + BCE(D(R(f_s(s))), 0)]

R is the identity with the gradient times −λ: D learns to tell the domains apart, the towers to make that impossible.
The negative's class is drawn with probability proportional to 1 / distance of the class names' word vectors.

Deviations from the release:

- λ grows as its text says (``ramp``); its code multiplies a zero, so that λ jumps from 0 to 1 at the threshold
  epoch: ``schedule="step"``.
- Images are normalised as the pretrained weights expect; the release scales to [0, 1] only: ``statistics="unit"``.
- D gives logits (numerically safe) instead of a sigmoid's output. The three parts of a batch go through it together:
  one by one, as in the release, its BatchNorm takes out each domain's mean before D can see it
  (``domain_batches="separate"``).
- ``published=True`` turns these three back.
- With ``negatives=None`` the negative's class is uniform; the release reads word vectors that it does not contain.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zsbir.arguments import Count, NonNegative, Ratio
from zsbir.backbones.base import Backbone, build_backbone
from zsbir.data.preprocess import Preprocess
from zsbir.errors import ZsbirError
from zsbir.losses import batch_triplet_loss, gradient_reversal, triplet_loss
from zsbir.methods import METHODS
from zsbir.methods._dann import DomainClassifier, DomainWatch, Schedule, Tower, reversal_strength
from zsbir.methods.base import Method, Recipe, RecipeSet
from zsbir.methods.released import take
from zsbir.types import Batch, Domain, Features


@METHODS.register("dann")
class DANN(Method):
    """Two towers, triplet loss, gradient reversal against a domain classifier, semantic negatives.

    Args:
        backbone: Name, mapping or instance; each tower has its own unless it is `shared` or frozen. A DenseNet ends in
            its last BatchNorm, as published; with ``{"name": "densenet121", "last_relu": True}`` in a ReLU.
        pretrained: Build the backbone with its pretrained weights.
        weights: A local file with the backbone's weights instead.
        shared: One tower for both domains (published: two); ``"head"``: two that share the head's linear layers, and
            standardise their features each on their own.
        pool: ``"max"`` over the last feature map as published, or ``"model"``: the backbone's own vector.
        head: Widths of a projection head on each tower, such as ``(512, 256)``; empty: none, as published.
        freeze: ``"none"``; ``"backbone"``: only heads and domain classifier train, and the towers share the backbone.
        standardise: Standardise each domain's pooled features before the head.
        dropout: Share of the pooled features hidden from the head in a training step.
        margin: Of the triplet loss.
        unit: L2-normalise the embedding (published: not).
        batch_negatives: Compare every sketch with all photos of the batch, not only with its own two.
        triplet_loss_ratio: Weight of the triplet loss.
        domain_loss_ratio: Weight of the domain loss; 0: no domain classifier.
        schedule: Of λ: ``"ramp"`` (None), ``"step"``, ``"ganin"`` or ``"constant"``, see `reversal_strength`.
        grl_threshold_epoch: The epoch where ``"ramp"`` and ``"step"`` reach 1.
        domain_batches: ``"joint"`` (None), or as released ``"separate"``: see the module's docstring.
        negatives: What the classes' distances, and so the negative classes, are taken from, see
            `zsbir.data.word_vectors.class_weights`; None: uniform.
        statistics: ``"backbone"`` (None): normalise images as the weights expect; ``"unit"``: only to [0, 1], as
            released.
        published: As the release computes, for what is left at None: ``"step"``, ``"separate"`` and ``"unit"``.
        preprocess: Changes to how images are prepared, see `zsbir.data.preprocess.Preprocess`.

    Raises:
        ZsbirError: If nothing would train.
    """

    matcher: str | Mapping[str, Any] = "euclidean"
    recipes: Mapping[str, RecipeSet] = {
        "small-data": RecipeSet(
            {
                "backbone": {"name": "lite0", "pool": "stages"}, "pool": "model", "freeze": "backbone",
                "shared": "head", "head": [512], "standardise": True, "dropout": 0.7, "unit": True,
                "batch_negatives": True, "margin": 0.2, "domain_loss_ratio": 0.0,
            },
            {"epochs": 20, "optimizer": "adamw", "lr": 1e-3, "weight_decay": 1e-2, "schedule": "cosine"},
        )
    }  # fmt: skip
    embeds_with = ("photo", "sketch")

    def __init__(
        self,
        backbone: str | Mapping[str, Any] | Backbone = "densenet121.tv_in1k",
        pretrained: bool = False,
        weights: str | None = None,
        shared: bool | Literal["head"] = False,
        pool: Literal["max", "model"] = "max",
        head: Sequence[Count] = (),
        freeze: Literal["none", "backbone"] = "none",
        standardise: bool = False,
        dropout: Ratio = 0.0,
        margin: NonNegative = 1.0,
        unit: bool = False,
        batch_negatives: bool = False,
        triplet_loss_ratio: NonNegative = 1.0,
        domain_loss_ratio: NonNegative = 0.5,
        schedule: Schedule | None = None,
        grl_threshold_epoch: Count = 25,
        domain_batches: Literal["joint", "separate"] | None = None,
        negatives: str | Mapping[str, Any] | None = None,
        statistics: Literal["backbone", "unit"] | None = None,
        published: bool = False,
        preprocess: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        schedule = schedule or ("step" if published else "ramp")
        domain_batches = domain_batches or ("separate" if published else "joint")
        statistics = statistics or ("unit" if published else "backbone")
        if freeze == "backbone" and not head:
            raise ZsbirError("dann: freeze='backbone' without a head leaves nothing to train: give head=[512, 256]")
        frozen = freeze == "backbone"
        name = str(backbone.get("name") if isinstance(backbone, Mapping) else backbone)
        last_relu = False if name.startswith("densenet") else None
        first = build_backbone(backbone, pretrained, weights, last_relu=last_relu)
        self.photo = Tower(first, pool, head, unit, standardise, dropout)
        if frozen:
            first.train_last(0)
        # Both towers start from the same weights, as two copies of a pretrained network do.
        same: list[nn.Module] = [first] if frozen else []
        same += [layer for layer in self.photo.head if isinstance(layer, nn.Linear)] if shared == "head" else []
        self.sketch = self.photo if shared is True else copy.deepcopy(self.photo, {id(part): part for part in same})
        self.domain = DomainClassifier(self.photo.dim) if domain_loss_ratio else None
        plain = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)} if statistics == "unit" else {}
        self.preprocess = Preprocess.of(first, preprocess, **plain)
        self.margin, self.batch_negatives, self.negatives = margin, batch_negatives, negatives
        self.triplet_loss_ratio, self.domain_loss_ratio = triplet_loss_ratio, domain_loss_ratio
        self.schedule, self.grl_threshold_epoch, self.domain_batches = schedule, grl_threshold_epoch, domain_batches
        # The release leaves the learning rate to the user; these are the rates that worked here.
        self.recipe = Recipe(epochs=50, batch_size=64, lr=3e-4 if frozen else 1e-4)
        self.strength = reversal_strength(schedule, 0, 1, grl_threshold_epoch)
        self.watch = DomainWatch()

    @property
    def trunk(self) -> Backbone | None:
        """The backbone, which the towers share where it is frozen."""
        return self.photo.backbone if self.photo.pool == "model" else None

    def embed(self, images: Tensor, domain: Domain) -> Features:
        """Return the domain's tower's embedding, with the backbone's tokens."""
        tower = self.sketch if domain == "sketch" else self.photo
        seen = tower.features(self.preprocess.normalise(images))
        return Features(tower.project(seen.vector), seen.tokens, seen.grid)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the terms ``triplet`` and ``domain``; ``lambda`` and ``domain_accuracy`` are logged."""
        sketch, positive, negative = map(self.preprocess.normalise, batch.triplet())
        # One by one, as released: BatchNorm sees each alone.
        sketch, positive, negative = self.sketch(sketch), self.photo(positive), self.photo(negative)
        if self.batch_negatives:
            assert batch.negative_label is not None
            label = torch.cat([batch.photo_label, batch.negative_label])
            photos = torch.cat([positive, negative])
            triplet = batch_triplet_loss(sketch, photos, batch.label, label, self.margin)
        else:
            triplet = triplet_loss(sketch, positive, negative, self.margin)
        terms = {"triplet": self.triplet_loss_ratio * triplet}
        if self.domain is not None:
            terms["domain"] = self.domain_loss_ratio * self._domain_loss(positive, negative, sketch)
        return terms

    def _domain_loss(self, positive: Tensor, negative: Tensor, sketch: Tensor) -> Tensor:
        assert self.domain is not None
        parts = [gradient_reversal(part, self.strength) for part in (positive, negative, sketch)]
        if self.domain_batches == "joint":
            logits = self.domain(torch.cat(parts)).squeeze(1).chunk(3)
        else:
            logits = tuple(self.domain(part).squeeze(1) for part in parts)
        # softplus(∓x) is the cross-entropy of a logit against 1 and 0.
        right = [side.float().mean() for side in (logits[0] > 0, logits[1] > 0, logits[2] <= 0)]
        accuracy = (right[0] + right[1]) / 4 + right[2] / 2
        self.logged = {"lambda": self.strength, "domain_accuracy": accuracy}
        self.watch.add(accuracy, self.strength)
        return F.softplus(-logits[0]).mean() + F.softplus(-logits[1]).mean() + F.softplus(logits[2]).mean()

    def released_state(self, given: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the towers and the domain classifier of the release's ``last.pth.tar``."""
        return (
            take(given, "image_model.net.", "photo.backbone.net.features.")
            | take(given, "sketch_model.net.", "sketch.backbone.net.features.")
            | take(given, "domain_model.net.", "domain.")
        )

    def on_epoch(self, epoch: int, epochs: int) -> None:
        """Set λ."""
        self.strength = reversal_strength(self.schedule, epoch, epochs, self.grl_threshold_epoch)

    def negative_weights(self, classes: Sequence[str]) -> Tensor | None:
        """Return (C, C) weights 1 / distance of the class names, or None for uniform."""
        if self.negatives is None:
            return None
        from zsbir.data.word_vectors import class_weights

        return class_weights(self.negatives, classes)
