"""Small operations on embedding matrices that the matchers share."""

from __future__ import annotations

import torch
from torch import Tensor

from zsbir.errors import ZsbirError
from zsbir.types import Embeddings


def normalise(vectors: Tensor) -> Tensor:
    """Return (n, D) vectors of Euclidean length 1; a zero vector stays zero.

    Each is brought near 1 first, so that no square overflows or vanishes.
    """
    return torch.nn.functional.normalize(vectors / power_of_two(vectors.abs().amax(dim=1, keepdim=True)), dim=1)


def power_of_two(size: Tensor) -> Tensor:
    """Return a power of two near each size: dividing by it changes no digit."""
    return torch.ldexp(torch.ones_like(size), torch.frexp(size).exponent.clamp(-126, 126))


def same_width(queries: Embeddings, width: int) -> None:
    """Raise ZsbirError unless the queries are `width` wide."""
    if queries.vectors.shape[1] != width:
        raise ZsbirError(
            f"the queries have {queries.vectors.shape[1]} dimensions and the gallery {width}: embed both with one model"
        )


def unit_queries(queries: Embeddings, gallery: Tensor) -> Tensor:
    """Return (q, D) queries of length 1, of the gallery's type and device; raises ZsbirError if the widths differ."""
    same_width(queries, gallery.shape[1])
    return normalise(queries.vectors.to(gallery))


def top_neighbours(vectors: Tensor, most: int, chunk: int = 1024) -> tuple[Tensor, Tensor]:
    """Return the `most` rows nearest to each of the (n, D) rows of length 1, itself left out, chunk by chunk.

    Returns (n, min(most, n − 1)) cosine similarities, descending, and int64 positions; memory is bounded to chunk · n.
    """
    found = []
    for start in range(0, len(vectors), chunk):
        similar = vectors[start : start + chunk] @ vectors.T
        similar.diagonal(start).fill_(-torch.inf)
        found.append(similar.topk(min(most, len(vectors) - 1), dim=1))
    return torch.cat([best.values for best in found]), torch.cat([best.indices for best in found])
