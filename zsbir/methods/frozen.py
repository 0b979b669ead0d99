"""A pretrained backbone as it is: the baseline that training must beat, and search without training."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from zsbir.arguments import Natural, Proportion
from zsbir.backbones.base import Backbone, build_backbone
from zsbir.backbones.norms import adapt_norms
from zsbir.data.base import Dataset
from zsbir.data.edges import edge_maps
from zsbir.data.preprocess import Preprocess
from zsbir.errors import ZsbirError
from zsbir.methods import METHODS
from zsbir.methods.alignment import Alignment
from zsbir.methods.base import Method
from zsbir.methods.embedding import apply
from zsbir.types import DOMAINS, Domain, Features

_VIEWS = {"plain": ("sketch", "photo"), "edges": ("sketch", "edges"), "both": ("sketch", "photo", "edges")}
"""The kinds of features for each value of `photos`."""

_ADAPT = 32
"""How many sketches BatchNorm statistics are measured on at a time."""


@METHODS.register("frozen")
class Frozen(Method):
    """A backbone's features without training; optionally, the difference between the domains is removed.

    That difference (for `center`, `scale`, `remove`, `sketch_norms`) is measured on the seen classes of a dataset,
    without labels, by `fit` or ``zsbir train frozen``, and saved with the weights.

    Args:
        backbone: Name, mapping or instance; ``"clip"``, ``"siglip2"``, ``"dinov2"`` and ``"dinov3"`` are good first
            choices, see `zsbir.backbones.PRESETS`.
        pretrained: Load the backbone's pretrained weights.
        weights: A local weights file instead.
        center: Subtract the domain's mean: the cheapest domain adaptation.
        remove: How many directions to project out: those in which the domains' variances differ most.
        photos: How a photo is seen: ``"plain"``, as ``"edges"`` (its edge map, see `zsbir.data.edges`: a line drawing
            is closer to a sketch than the photo is), or ``"both"``, the sum of the two unit vectors.
        sketch_norms: Share of sketches' own statistics in the BatchNorm layers that embed them; 0: sketches and photos
            go through the same network.
        scale: Divide by the domain's standard deviation; see `zsbir.methods.alignment.Alignment`.
        preprocess: Changes to how images are prepared, see `zsbir.data.preprocess.Preprocess`.

    Raises:
        ZsbirError: For more directions than dimensions, or ``remove`` with two views of a photo or with ``scale``.
    """

    trains = False
    done: Tensor

    def __init__(
        self,
        backbone: str | Mapping[str, Any] | Backbone = "vit_base_patch16_224",
        pretrained: bool = False,
        weights: str | None = None,
        center: bool = False,
        remove: Natural = 0,
        photos: Literal["plain", "edges", "both"] = "plain",
        sketch_norms: Proportion = 0.0,
        scale: bool = False,
        preprocess: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.backbone = build_backbone(backbone, pretrained, weights)
        self.backbone.train_last(0)
        self.preprocess = Preprocess.of(self.backbone, preprocess)
        self.photos, self.sketch_norms = photos, sketch_norms
        self.alignment = Alignment(self.backbone.dim, _VIEWS[photos], center, scale, remove)
        # A second set of weights that differs in its statistics alone.
        self.of_sketches = copy.deepcopy(self.backbone) if sketch_norms else None
        self.register_buffer("done", torch.zeros((), dtype=torch.bool) if sketch_norms else None)
        self.adapted = False

    @property
    def trunk(self) -> Backbone | None:
        """The backbone, if sketches and photos both go through it unchanged."""
        return self.backbone if self.photos == "plain" and self.of_sketches is None else None

    def embed(self, images: Tensor, domain: Domain) -> Features:
        """Return the backbone's aligned features, with the tokens of the image (``photos="edges"``: its edge map)."""
        seen = self._views(images, domain)
        vectors = [self.alignment(features.vector, view) for view, features in seen.items()]
        first = next(iter(seen.values()))
        if len(vectors) > 1:
            vectors = [F.normalize(vectors[0], dim=1) + F.normalize(vectors[1], dim=1)]
        return Features(vectors[0], first.tokens, first.grid)

    def fit(self, dataset: Dataset, *, seed: int = 0, **options: Any) -> None:
        """Measure the statistics of sketches, and the difference between the domains, on a dataset's training part."""
        self.eval()
        if self.of_sketches is not None:
            records = dataset.train.sketches
            order = np.random.default_rng(seed).permutation(len(records))  # classes are mixed in each batch
            order = order[: max(len(order) // _ADAPT * _ADAPT, _ADAPT)]  # a batch of two or three has poor statistics
            more = {**options, "batch_size": _ADAPT}
            batches = apply(self, self.preprocess.normalise, records.take(order), "sketch", dataset=dataset, **more)
            self.of_sketches.load_state_dict(self.backbone.state_dict())
            adapt_norms(self.of_sketches, (images for _, images in batches), self.sketch_norms)
            self.done.fill_(True)
            self.adapted = True
        if self.alignment.active:
            found: dict[str, list[Tensor]] = {view: [] for view in self.alignment.views}
            for domain in DOMAINS:
                records = dataset.train.of(domain)
                see = partial(self._views, domain=domain)
                for _, seen in apply(self, see, records, domain, dataset=dataset, **options):
                    for view, features in seen.items():
                        found[view].append(features.vector.float().cpu())
            self.alignment.measure({view: torch.cat(parts) for view, parts in found.items() if parts})

    def _views(self, images: Tensor, domain: Domain) -> dict[str, Features]:
        """Return the features of each view of a domain's images, not aligned."""
        look = self.preprocess.normalise
        if domain == "sketch":
            if self.of_sketches is not None and not self.adapted:
                raise ZsbirError(
                    "the BatchNorm statistics of sketches (sketch_norms) were never measured on seen classes: run "
                    "`zsbir train frozen --dataset NAME --set ...`, or call method.fit(dataset)"
                )
            return {"sketch": (self.of_sketches or self.backbone).features(look(images))}
        views = _VIEWS[self.photos][1:]
        return {view: self.backbone.features(look(edge_maps(images) if view == "edges" else images)) for view in views}

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.adapted = self.done is not None and bool(self.done)
