"""Hamming distance of binary codes, negated."""

from __future__ import annotations

import torch
from torch import Tensor

from zsbir.matchers import MATCHERS
from zsbir.matchers.base import Matcher, same_width
from zsbir.types import Embeddings


@MATCHERS.register("hamming")
class HammingMatcher(Matcher):
    """Negated Hamming distance of the codes given by the signs of the vectors (0 counts as positive)."""

    def fit(self, gallery: Embeddings) -> HammingMatcher:
        """Keep the signs of the gallery vectors (n, D) as float32 +1 and -1: their products are exact."""
        self._gallery = _signs(gallery.vectors)
        return self

    def scores(self, queries: Embeddings) -> Tensor:
        """Return (q, n) float32, minus the number of bits that differ, in [-D, 0]."""
        bits = self._gallery.shape[1]
        same_width(queries, bits)
        product = _signs(queries.vectors.to(self._gallery.device)) @ self._gallery.T
        return product.sub_(bits).div_(2)


def _signs(vectors: Tensor) -> Tensor:
    return torch.where(vectors >= 0, 1.0, -1.0).to(torch.float32)
