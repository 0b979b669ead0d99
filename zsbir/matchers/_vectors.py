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


def top_neighbours(
    vectors: Tensor, others: Tensor, most: int, skip_self: bool = False, chunk: int = 1024
) -> tuple[Tensor, Tensor]:
    """Return the most similar rows of `others` for each row of `vectors`, chunk by chunk.

    Args:
        vectors: (n, D) float, of length 1.
        others: (m, D) float, of length 1.
        most: How many, at most m (m − 1 with `skip_self`).
        skip_self: `vectors` is `others`, and a row is not its own neighbour.
        chunk: Rows of `vectors` at a time; bounds memory to ``chunk * m``.

    Returns:
        (n, most) cosine similarities, descending, and (n, most) int64 positions.
    """
    most = min(most, len(others) - int(skip_self))
    values, places = [], []
    for start in range(0, len(vectors), chunk):
        similar = vectors[start : start + chunk] @ others.T
        if skip_self:
            rows = torch.arange(len(similar), device=similar.device)
            similar[rows, rows + start] = -torch.inf
        best = similar.topk(most, dim=1)
        values.append(best.values)
        places.append(best.indices)
    return torch.cat(values), torch.cat(places)
