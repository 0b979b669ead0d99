"""Cosine similarity."""

from __future__ import annotations

from torch import Tensor

from zsbir.matchers import MATCHERS
from zsbir.matchers.base import Matcher, normalise, unit_queries
from zsbir.types import Embeddings


@MATCHERS.register("cosine")
class CosineMatcher(Matcher):
    """Cosine similarity of the vectors, in [-1, 1]."""

    def fit(self, gallery: Embeddings) -> CosineMatcher:
        """Keep the normalised gallery vectors (n, D)."""
        self._gallery = normalise(gallery.vectors)
        return self

    def scores(self, queries: Embeddings) -> Tensor:
        """Return (q, n) cosines; a zero vector scores 0 with everything."""
        return unit_queries(queries, self._gallery) @ self._gallery.T
