"""Re-ranking with k-reciprocal encoding (Zhong, Zheng, Cao and Li, CVPR 2017)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from zsbir.arguments import Count, Proportion
from zsbir.matchers import MATCHERS
from zsbir.matchers.base import Matcher, normalise, top_neighbours, unit_queries
from zsbir.types import Embeddings

Code = tuple[Tensor, Tensor]
"""Positions in the gallery, and their weights."""


@MATCHERS.register("k-reciprocal")
class KReciprocal(Matcher):
    """k-reciprocal re-ranking: query and photo are alike if they share mutual neighbours; transductive.

    With d = 1 − cosine, N(x, k) the k nearest photos of x, and R(x, k) those of them that have x among their own k
    nearest: R(x, k₁) grows by R(g, k₁/2) of each member g that shares two thirds of it, and becomes the weights
    exp(−d) over the gallery, normalised to sum 1. The weights of x are averaged with those of its k₂ nearest. The
    distance is (1 − λ) · Jaccard + λ · d.

    The release ranks all queries and photos in one list, so that a score depends on the other queries. Here a query's
    neighbours are photos alone: scores do not depend on which queries are asked together.

    Args:
        k1: Neighbours that must be mutual.
        k2: Neighbours whose weights are averaged; 1: the vector's own alone.
        weight: λ, share of the plain distance, in [0, 1].

    Raises:
        ZsbirError: For a value out of range.
    """

    transductive: ClassVar[bool] = True

    def __init__(self, k1: Count = 20, k2: Count = 6, weight: Proportion = 0.3) -> None:
        self.k1, self.k2, self.weight = k1, k2, weight
        self._most, self._half = max(k1, k2 - 1), max(1, round(k1 / 2))

    def fit(self, gallery: Embeddings) -> KReciprocal:
        """Find the gallery's neighbours and encode each photo: about n · 3k₁ weights."""
        self._gallery = normalise(gallery.vectors.float())
        values, places = top_neighbours(self._gallery, self._most)
        # A vector is among a photo's k nearest if it is at least as similar as the photo's k-th neighbour.
        nobody = values.new_full((len(values), 1), -torch.inf)  # a photo without neighbours is near to all
        self._reach = {k: torch.cat([nobody, values], dim=1)[:, min(k, values.shape[1])] for k in (self.k1, self._half)}
        itself = torch.arange(len(places), device=places.device)[:, None]
        self._halves = self._reciprocal(values, places, self._half, itself)
        wide = self._reciprocal(values, places, self.k1, itself)
        self._own = [self._encode(*pair) for pair in zip(wide, self._gallery, strict=True)]
        self._invert([self._average(*pair) for pair in zip(self._own, places, strict=True)])
        return self

    def scores(self, queries: Embeddings) -> Tensor:
        """Return (q, n) negated distances, each in [−2, 0]."""
        asked = unit_queries(queries, self._gallery)
        similar = asked @ self._gallery.T
        best = similar.topk(min(self._most, len(self._gallery)), dim=1)
        wide = self._reciprocal(best.values, best.indices, self.k1)
        codes = [self._encode(*pair) for pair in zip(wide, asked, strict=True)]
        averaged = [self._average(*pair) for pair in zip(codes, best.indices, strict=True)]
        shared = torch.stack([self._overlap(*code) for code in averaged])
        jaccard = 1 - shared / (2 - shared)
        return -((1 - self.weight) * jaccard + self.weight * (1 - similar))

    def _reciprocal(self, values: Tensor, places: Tensor, k: int, itself: Tensor | None = None) -> list[Tensor]:
        """Return R(x, k) of each row of a neighbour list, as gallery positions, with the row's own (n, 1) last."""
        near = places[:, :k]
        mutual = values[:, :k] >= self._reach[k][near]
        if itself is not None:
            near, mutual = torch.cat([near, itself], dim=1), torch.cat([mutual, itself >= 0], dim=1)
        return [row[keep] for row, keep in zip(near, mutual, strict=True)]

    def _encode(self, members: Tensor, vector: Tensor) -> Code:
        """Return positions and weights (sum 1) of the extended reciprocal set."""
        halves = [self._halves[member] for member in members.tolist()]
        grown = [half for half in halves if 3 * int(torch.isin(half, members).sum()) > 2 * len(half)]
        places = torch.cat([members, *grown]).unique()
        return places, torch.softmax(self._gallery[places] @ vector - 1, dim=0)  # exp(−d), normalised

    def _average(self, own: Code, near: Tensor) -> Code:
        """Return the mean of a vector's weights and those of its k₂ − 1 nearest photos."""
        parts = [part for part in (own, *(self._own[i] for i in near[: self.k2 - 1].tolist())) if len(part[0])]
        if not parts:
            return own
        places, where = torch.cat([part[0] for part in parts]).unique(return_inverse=True)
        weights = torch.cat([part[1] for part in parts]) / len(parts)
        return places, weights.new_zeros(len(places)).index_add_(0, where, weights)

    def _invert(self, codes: list[Code]) -> None:
        """Store the photos' weights by the position they are at: an inverted file."""
        columns = torch.cat([places for places, _ in codes])
        sizes = torch.tensor([len(places) for places, _ in codes], device=columns.device)
        order = columns.argsort(stable=True)
        self._rows = torch.arange(len(codes), device=columns.device).repeat_interleave(sizes)[order]
        self._weights = torch.cat([weights for _, weights in codes])[order]
        counts = torch.bincount(columns, minlength=len(self._gallery))
        self._ends = torch.cat([counts.new_zeros(1), counts.cumsum(0)])

    def _overlap(self, places: Tensor, weights: Tensor) -> Tensor:
        """Return (n,) Σ min(weight of the query, weight of the photo) over all positions."""
        lengths = self._ends[places + 1] - self._ends[places]
        start = self._ends[places] - torch.cat([lengths.new_zeros(1), lengths.cumsum(0)[:-1]])
        where = torch.arange(int(lengths.sum()), device=places.device) + start.repeat_interleave(lengths)
        least = torch.minimum(self._weights[where], weights.repeat_interleave(lengths))
        return self._gallery.new_zeros(len(self._gallery)).index_add_(0, self._rows[where], least)
