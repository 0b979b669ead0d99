"""α query expansion (Radenović, Tolias and Chum, PAMI 2019): the query moves towards its first answers."""

from __future__ import annotations

import torch
from torch import Tensor

from zsbir.arguments import Count, NonNegative
from zsbir.matchers import MATCHERS
from zsbir.matchers.base import Matcher, normalise, unit_queries
from zsbir.types import Embeddings


@MATCHERS.register("query-expansion")
class QueryExpansion(Matcher):
    """α-QE: cosine to the query plus its first photos, weighted by their similarity to the power α.

    Args:
        neighbours: How many photos are added to the query.
        alpha: Power of the similarity; 0: plain average query expansion.
        rounds: How often the expansion is repeated.

    Raises:
        ZsbirError: For a value out of range.
    """

    def __init__(self, neighbours: Count = 10, alpha: NonNegative = 3.0, rounds: Count = 1) -> None:
        self.neighbours, self.alpha, self.rounds = neighbours, alpha, rounds

    def fit(self, gallery: Embeddings) -> QueryExpansion:
        """Take the gallery's vectors in, at length 1."""
        self._gallery = normalise(gallery.vectors.float())
        return self

    def scores(self, queries: Embeddings) -> Tensor:
        """Return (q, n) cosine similarities in [−1, 1] to the expanded queries."""
        gallery = self._gallery
        query = unit_queries(queries, gallery)
        for _ in range(self.rounds):
            best = (query @ gallery.T).topk(min(self.neighbours, len(gallery)), dim=1)
            weights = best.values.clamp_min(0).pow(self.alpha)
            query = normalise(query + torch.einsum("qk,qkd->qd", weights, gallery[best.indices]))
        return query @ gallery.T
