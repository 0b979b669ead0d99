"""Diffusion on the gallery's neighbour graph (Iscen et al., CVPR 2017, "Efficient diffusion on region manifolds")."""

from __future__ import annotations

import warnings
from typing import ClassVar

import torch
from torch import Tensor

from zsbir.arguments import Count, NonNegative, Ratio
from zsbir.errors import ZsbirError
from zsbir.matchers import MATCHERS
from zsbir.matchers.base import Fitted, Matcher, normalise, top_neighbours, unit_queries
from zsbir.types import Embeddings


@MATCHERS.register("diffusion")
class Diffusion(Matcher):
    """Diffusion: the query's first photos pass their score on along the gallery's neighbour graph; transductive.

    The graph joins photos that are among each other's k nearest, with weight cosine^γ. With S the graph's symmetrically
    normalised matrix and y the query's similarity^γ to its first photos, the scores solve (I − αS) f = y, by conjugate
    gradients. Photos that the diffusion does not reach follow in the order of their cosine.

    Args:
        neighbours: k of the graph.
        query_neighbours: Photos that the query starts from.
        alpha: How far scores travel, in [0, 1).
        gamma: Power of the similarities.
        iterations: Of the conjugate gradients.

    Raises:
        ZsbirError: For a value out of range.
    """

    transductive: ClassVar[bool] = True
    _graph = Fitted[Tensor]()

    def __init__(
        self,
        neighbours: Count = 50,
        query_neighbours: Count = 10,
        alpha: Ratio = 0.99,
        gamma: NonNegative = 3.0,
        iterations: Count = 20,
    ) -> None:
        self.neighbours, self.query_neighbours = neighbours, query_neighbours
        self.alpha, self.gamma, self.iterations = alpha, gamma, iterations

    def fit(self, gallery: Embeddings) -> Diffusion:
        """Build the graph: n · k entries.

        Raises:
            ZsbirError: If the gallery has fewer than two photos.
        """
        vectors = normalise(gallery.vectors.float())
        if len(vectors) < 2:
            raise ZsbirError("diffusion needs a gallery of at least two photos")
        values, places = top_neighbours(vectors, self.neighbours)
        count = len(vectors)
        rows = torch.arange(count, device=vectors.device).repeat_interleave(places.shape[1])
        columns = places.flatten()
        # An edge is mutual if its mirror image is in the list too.
        mutual = torch.isin(rows * count + columns, columns * count + rows)
        weights = values.flatten().clamp_min(0).pow(self.gamma)[mutual]
        rows, columns = rows[mutual], columns[mutual]
        degree = torch.zeros(count, device=vectors.device).index_add_(0, rows, weights)
        scale = degree.clamp_min(torch.finfo(torch.float32).tiny).rsqrt()
        graph = torch.sparse_coo_tensor(
            torch.stack([rows, columns]), weights * scale[rows] * scale[columns], (count, count), check_invariants=False
        )
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
            self._graph = graph.coalesce().to_sparse_csr()
        self._gallery = vectors
        return self

    def scores(self, queries: Embeddings) -> Tensor:
        """Return (q, n): the diffused scores where they are positive, elsewhere cosine − 1 (at most 0)."""
        similar = unit_queries(queries, self._gallery) @ self._gallery.T
        best = similar.topk(min(self.query_neighbours, len(self._gallery)), dim=1)
        start = torch.zeros_like(similar).scatter_(1, best.indices, best.values.clamp_min(0).pow(self.gamma))
        found = self._solve(start.T.contiguous()).T
        return torch.where(found > 0, found, similar.clamp_max(1) - 1)

    def _solve(self, right: Tensor) -> Tensor:
        """Solve (I − αS) f = y for the columns y of `right` (n, q); each column steps by itself."""
        answer = torch.zeros_like(right)
        residual, direction = right.clone(), right.clone()
        energy = residual.square().sum(0)
        tiny = torch.finfo(right.dtype).tiny
        for _ in range(self.iterations):
            moved = direction - self.alpha * (self._graph @ direction)
            step = energy / (direction * moved).sum(0).clamp_min(tiny)
            answer += step * direction
            residual -= step * moved
            before, energy = energy, residual.square().sum(0)
            direction = residual + energy / before.clamp_min(tiny) * direction
        return answer
