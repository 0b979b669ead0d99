"""Cosine similarity."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from zsbir.matchers import MATCHERS
from zsbir.matchers.base import Matcher
from zsbir.types import Embeddings


@MATCHERS.register("cosine")
class CosineMatcher(Matcher):
    """Cosine similarity of the vectors, in [-1, 1]."""

    def fit(self, gallery: Embeddings) -> CosineMatcher:
        """Keep the normalised gallery vectors (n, D)."""
        self._gallery = F.normalize(gallery.vectors, dim=1)
        return self

    def scores(self, queries: Embeddings) -> Tensor:
        """Return (q, n) cosines; a zero vector scores 0 with everything."""
        return F.normalize(queries.vectors.to(self._gallery), dim=1) @ self._gallery.T
