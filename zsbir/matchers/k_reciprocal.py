"""Re-ranking with k-reciprocal encoding (Zhong, Zheng, Cao and Li, CVPR 2017)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from zsbir.arguments import Count, Proportion
from zsbir.matchers import MATCHERS
from zsbir.matchers._vectors import normalise, same_width, top_neighbours
from zsbir.matchers.base import Fitted, Matcher
from zsbir.types import Embeddings


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
    _gallery = Fitted[Tensor]()

    def __init__(self, k1: Count = 20, k2: Count = 6, weight: Proportion = 0.3) -> None:
        self.k1 = k1
        self.k2 = k2
        self.weight = weight

    def fit(self, gallery: Embeddings) -> KReciprocal:
        """Find the gallery's neighbours and encode each photo: about n · 3k₁ weights."""
        self._gallery = normalise(gallery.vectors.float())
        most = max(self.k1, self.k2 - 1)
        values, places = top_neighbours(self._gallery, self._gallery, most, skip_self=True)
        self._places = places
        # A vector is among a photo's k nearest if it is at least as similar as the photo's k-th neighbour.
        nobody = values.new_full((len(values), 1), -torch.inf)  # a photo without neighbours is near to all
        self._reach = {k: torch.cat([nobody, values], dim=1)[:, min(k, values.shape[1])] for k in (self.k1, self._half)}
        self._halves = self._reciprocal(values, places, self._half)
        wide = self._reciprocal(values, places, self.k1)
        own = [self._encode(i, wide[i], self._gallery[i]) for i in range(len(places))]
        averaged = [self._average(own[i], places[i, : self.k2 - 1], own) for i in range(len(places))]
        self._own = own
        self._invert(averaged)
        return self

    def scores(self, queries: Embeddings) -> Tensor:
        """Return (q, n) negated distances, each in [−2, 0]."""
        gallery = self._gallery
        same_width(queries, gallery.shape[1])
        asked = normalise(queries.vectors.float().to(gallery.device))
        similar = asked @ gallery.T
        best = similar.topk(min(max(self.k1, self.k2 - 1), len(gallery)), dim=1)
        wide = self._reciprocal(best.values, best.indices, self.k1)
        shared = torch.stack(
            [
                self._overlap(
                    self._average(self._encode(None, wide[i], asked[i]), best.indices[i, : self.k2 - 1], self._own)
                )
                for i in range(len(asked))
            ]
        )
        jaccard = 1 - shared / (2 - shared)
        return -((1 - self.weight) * jaccard + self.weight * (1 - similar))

    @property
    def _half(self) -> int:
        return max(1, round(self.k1 / 2))

    def _reciprocal(self, values: Tensor, places: Tensor, k: int) -> list[Tensor]:
        """Return R(x, k) of each row of a neighbour list, as positions in the gallery."""
        near = places[:, :k]
        mutual = values[:, :k] >= self._reach[k][near]
        return [row[keep] for row, keep in zip(near, mutual, strict=True)]

    def _encode(self, itself: int | None, members: Tensor, vector: Tensor) -> tuple[Tensor, Tensor]:
        """Return positions and weights (sum 1) of the extended reciprocal set; a photo is in its own set."""
        if itself is not None:
            members = torch.cat([members, members.new_tensor([itself])])
        sets = [members]
        for member in members.tolist():
            half = torch.cat([self._halves[member], members.new_tensor([member])])
            if 3 * int(torch.isin(half, members).sum()) > 2 * len(half):
                sets.append(half)
        places = torch.cat(sets).unique()
        weights = torch.softmax(self._gallery[places] @ vector - 1, dim=0)  # exp(−d), normalised
        return places, weights

    def _average(
        self, own: tuple[Tensor, Tensor], near: Tensor, codes: list[tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, Tensor]:
        """Return the mean of a vector's weights and those of its nearest photos."""
        parts = [own, *(codes[i] for i in near.tolist())]
        parts = [part for part in parts if len(part[0])]
        if not parts:
            return own
        places, where = torch.cat([part[0] for part in parts]).unique(return_inverse=True)
        weights = torch.cat([part[1] for part in parts]) / len(parts)
        return places, weights.new_zeros(len(places)).index_add_(0, where, weights)

    def _invert(self, codes: list[tuple[Tensor, Tensor]]) -> None:
        """Store the photos' weights by the position they are at: an inverted file."""
        columns = torch.cat([places for places, _ in codes])
        rows = torch.arange(len(codes), device=columns.device).repeat_interleave(
            torch.tensor([len(places) for places, _ in codes], device=columns.device)
        )
        order = columns.argsort(stable=True)
        self._rows, self._weights = rows[order], torch.cat([weights for _, weights in codes])[order]
        counts = torch.bincount(columns, minlength=len(self._gallery))
        self._ends = torch.cat([counts.new_zeros(1), counts.cumsum(0)])

    def _overlap(self, code: tuple[Tensor, Tensor]) -> Tensor:
        """Return (n,) Σ min(weight of the query, weight of the photo) over all positions."""
        places, weights = code
        lengths = self._ends[places + 1] - self._ends[places]
        start = self._ends[places] - torch.cat([lengths.new_zeros(1), lengths.cumsum(0)[:-1]])
        where = torch.arange(int(lengths.sum()), device=places.device) + start.repeat_interleave(lengths)
        least = torch.minimum(self._weights[where], weights.repeat_interleave(lengths))
        return self._gallery.new_zeros(len(self._gallery)).index_add_(0, self._rows[where], least)
