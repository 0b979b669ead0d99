"""Exact ranks of the relevant photos of each query, ties included, without sorting indices.

All metrics are functions of where the *relevant* photos lie. So the scores of a chunk are sorted as bare numbers
(vectorised in NumPy; an ``argsort`` is about ten times slower), and the few relevant scores are looked up in them by
binary search. Nothing is rounded: equal scores, and only they, are a tie.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor


class Ties(NamedTuple):
    """The relevant photos whose score another photo shares, as 1-D tensors of equal length T."""

    row: Tensor  # int64, the query
    column: Tensor  # int64, the place among the query's relevant photos, from 0
    before: Tensor  # float64, photos with a higher score
    size: Tensor  # float64, photos with this score
    hits_before: Tensor  # float64, relevant photos with a higher score
    hits: Tensor  # float64, relevant photos with this score

    def upto(self, columns: int) -> Ties:
        """Return the ties among the first `columns` relevant photos of each query."""
        keep = self.column < columns
        return Ties(*(held[keep] for held in self))


@dataclass(frozen=True, eq=False)
class Ranks:
    """Where the relevant photos of q queries lie among G photos.

    Attributes:
        before: (q, R) float64: for the relevant photos from best to worst, how many photos score strictly higher;
            inf where a query has fewer than R relevant photos.
        relevant: (q,) float64, the number of relevant photos, at least 1.
        gallery: G.
        ties: The relevant photos that are tied; None if there are none.
    """

    before: Tensor
    relevant: Tensor
    gallery: int
    ties: Ties | None

    @cached_property
    def order(self) -> Tensor:
        """(R,) float64: 1, 2, ..., R."""
        return torch.arange(1, self.before.shape[1] + 1, dtype=torch.float64, device=self.before.device)

    @cached_property
    def position(self) -> Tensor:
        """(q, R) float64: the rank from 1, for tied photos the mean over all orders of the tie; inf in padding."""
        position = self.before + 1
        if self.ties is not None:
            t = self.ties
            # The j-th of r relevant among n tied photos is, in the mean over orders, at place j (n + 1) / (r + 1).
            j = t.column - t.hits_before + 1
            position[t.row, t.column] = t.before + j * (t.size + 1) / (t.hits + 1)
        return position

    @cached_property
    def precision(self) -> Tensor:
        """(q, R) float64: the precision at `position`; 0 in padding."""
        return self.order / self.position

    @cached_property
    def _columns(self) -> dict[int, int]:
        return {self.gallery: self.before.shape[1]}

    def columns(self, k: int) -> int:
        """Return how many columns can matter for the first `k` photos."""
        k = min(k, self.gallery)
        if k not in self._columns:
            edge = self.before.new_full((len(self.before), 1), float(k))
            self._columns[k] = int(torch.searchsorted(self.before, edge).max())
        return self._columns[k]


def rank_relevant(scores: Tensor, columns: Tensor, relevant: Tensor) -> Ranks:
    """Rank the relevant photos of a chunk of queries.

    Args:
        scores: (q, G) float, finite, higher is better. **Overwritten** (sorted in place on the CPU).
        columns: (q, R) int64, the relevant photos of each query; any valid photo in the padding.
        relevant: (q,) int64, how many of them count, from the left.

    Returns:
        The ranks, in float64, on the device of `scores`.
    """
    padding = torch.arange(columns.shape[1], device=scores.device) >= relevant[:, None]
    # Negated, so that ascending order is from best to worst and padding (+inf) comes last.
    best_first = _sorted_rows(scores.gather(1, columns).neg_().masked_fill_(padding, torch.inf))
    ordered = _sorted_rows(scores)
    gallery = ordered.shape[1]
    values = best_first.neg()
    below = torch.searchsorted(ordered, values, right=True, out_int32=True)  # photos scoring at most this much
    before = (gallery - below).to(torch.float64).masked_fill_(padding, torch.inf)
    # A photo is tied if the one before the last of "at most this much" has its score too.
    tied = (ordered.gather(1, (below - 2).clamp_(min=0).long()) == values) & (below >= 2) & ~padding
    ties = _ties(ordered, best_first, before, tied) if bool(tied.any()) else None
    return Ranks(before, relevant.to(torch.float64), gallery, ties)


def _ties(ordered: Tensor, best_first: Tensor, before: Tensor, tied: Tensor) -> Ties:
    row, column = tied.nonzero(as_tuple=True)
    higher, value = before[row, column], best_first[row, column]
    size = ordered.shape[1] - higher - _lower_bound(ordered, row, -value)
    hits_before = _lower_bound(best_first, row, value).to(torch.float64)
    # The next float up: the first place of a larger key is the end of the tie.
    above = torch.nextafter(value, torch.full_like(value, torch.inf))
    hits = _lower_bound(best_first, row, above) - hits_before
    return Ties(row, column, higher, size, hits_before, hits)


def _lower_bound(ordered: Tensor, row: Tensor, value: Tensor) -> Tensor:
    """Return (T,) int64, how many entries of ``ordered[row]`` (ascending) are smaller than `value`, by bisection."""
    width = ordered.shape[1]
    flat = ordered.reshape(-1)
    low, high = torch.zeros_like(row), torch.full_like(row, width)
    for _ in range(width.bit_length()):
        middle = (low + high) // 2
        smaller = (flat[row * width + middle.clamp(max=width - 1)] < value) & (middle < high)
        low = torch.where(smaller, middle + 1, low)
        high = torch.where(smaller, high, middle)
    return low


def _sorted_rows(values: Tensor) -> Tensor:
    """Return each row in ascending order; on the CPU in place, by NumPy's vectorised sort."""
    if values.device.type != "cpu":
        return torch.sort(values, dim=1).values
    values.numpy().sort(axis=1)
    return values
