"""Euclidean distance, negated."""

from __future__ import annotations

import torch
from torch import Tensor

from zsbir.matchers import MATCHERS
from zsbir.matchers.base import Matcher, power_of_two, same_width
from zsbir.types import Embeddings


@MATCHERS.register("euclidean")
class EuclideanMatcher(Matcher):
    """Negated Euclidean distance of the vectors, as given (not normalised)."""

    def fit(self, gallery: Embeddings) -> EuclideanMatcher:
        """Keep the gallery vectors (n, D), scaled so that no square overflows, and their squared norms."""
        self._scale = float(power_of_two(gallery.vectors.abs().amax()))
        self._gallery = gallery.vectors / self._scale
        self._squares = self._gallery.square().sum(dim=1)
        return self

    def scores(self, queries: Embeddings) -> Tensor:
        """Return (q, n) float, -|query - photo|, at most 0."""
        same_width(queries, self._gallery.shape[1])
        vectors = queries.vectors.to(self._gallery) / self._scale
        # |q - g|^2 = |q|^2 + |g|^2 - 2 q.g: one matrix product instead of a (q, n, D) difference.
        squared = torch.addmm(self._squares[None, :], vectors, self._gallery.T, alpha=-2.0)
        return squared.add_(vectors.square().sum(dim=1, keepdim=True)).clamp_(min=0).sqrt_().mul_(-self._scale)
