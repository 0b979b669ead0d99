"""What the scores show besides metrics: the first photos of each query, confusion of classes, a histogram."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from zsbir.evaluation.shown import Chosen
from zsbir.types import Embeddings

CONFUSION_TOP = 10
SAMPLE = 2000
"""Queries whose scores the histogram holds."""
BINS, FINE = 60, 2048
"""Bins of the histogram, and of each chunk's own, from which it is made when the range of all scores is known."""


@dataclass(frozen=True)
class TopPhotos:
    """The first photos of one query.

    Attributes:
        query: Its position among the queries.
        path: Its file.
        label: Its class name.
        note: Why it is shown, such as ``"best"``.
        ap: Its AP under the report's first protocol; None if it has no relevant photo.
        photos: Positions in the gallery, best first.
        paths: Their files.
        labels: Their class names.
        scores: Their scores.
        correct: Which of them are relevant.
    """

    query: int
    path: str
    label: str
    note: str
    ap: float | None
    photos: tuple[int, ...]
    paths: tuple[str, ...]
    labels: tuple[str, ...]
    scores: tuple[float, ...]
    correct: tuple[bool, ...]


class Overview:
    """Looks at each chunk of scores in the pass over all of them; `top` photos of a query can be shown then."""

    def __init__(self, queries: Embeddings, gallery: Embeddings, top: int, seed: int) -> None:
        self._sides = queries, gallery
        self._top = min(top, len(gallery))
        self._keep = min(max(top, CONFUSION_TOP), len(gallery))
        self._sampled = np.zeros(len(queries), dtype=bool)
        self._sampled[np.random.default_rng(seed).permutation(len(queries))[:SAMPLE]] = True

    def look(self, index: npt.NDArray[np.int64], scores: Tensor, columns: Tensor, relevant: Tensor) -> tuple[Any, ...]:
        """Return what `take` wants of a chunk: (q,) queries, (q, G) scores, (q, R) relevant photos, how many count."""
        best = torch.topk(scores, self._keep, dim=1)
        rows = torch.from_numpy(np.flatnonzero(self._sampled[index])).to(scores.device)
        counts = _counts(scores[rows], columns[rows], relevant[rows]) if len(rows) else None
        return index, best.indices.cpu().numpy(), best.values.cpu().numpy(), counts

    def take(self, looks: list[tuple[Any, ...]]) -> None:
        """Take what `look` returned for all chunks, in any order."""
        order = np.argsort(np.concatenate([look[0] for look in looks]))
        self._photos = np.concatenate([look[1] for look in looks])[order]
        self._scores = np.concatenate([look[2] for look in looks])[order]
        self._counts = [look[3] for look in looks if look[3] is not None]

    def confusion(self) -> npt.NDArray[np.float64]:
        """Return (C, C), the share of each class (column) among the first 10 photos of a class's sketches (row)."""
        queries, gallery = self._sides
        counts = np.zeros((len(queries.classes), len(queries.classes)))
        found = gallery.labels[self._photos[:, :CONFUSION_TOP]]
        np.add.at(counts, (np.repeat(queries.labels, found.shape[1]), found.reshape(-1)), 1)
        share: npt.NDArray[np.float64] = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        return share

    def histogram(self) -> dict[str, Any]:
        """Return ``edges``, the shares of ``relevant`` and ``irrelevant`` pairs by bin, and how many ``queries``."""
        low, high = min(c[0] for c in self._counts), max(c[1] for c in self._counts)
        margin = 0.05 * (high - low)
        edges = np.linspace(low - margin, high + margin, BINS + 1)
        pairs = np.zeros((2, BINS))
        for begin, end, *counts in self._counts:
            own = np.linspace(begin, end, FINE + 1)
            for side, count in enumerate(counts):
                pairs[side] += np.diff(np.interp(edges, own, np.r_[0.0, np.cumsum(count)]))
        relevant, irrelevant = (pairs / np.maximum(pairs.sum(axis=1, keepdims=True), 1)).tolist()
        queries = int(self._sampled.sum())
        return {"edges": edges.tolist(), "relevant": relevant, "irrelevant": irrelevant, "queries": queries}

    def top_photos(self, chosen: Iterable[Chosen]) -> tuple[TopPhotos, ...]:
        """Return the first photos of the chosen queries."""
        queries, gallery = self._sides
        shown = []
        for query, note, ap in chosen:
            label = int(queries.labels[query])
            places = self._photos[query, : self._top].tolist()
            labels = gallery.labels[places].tolist()
            shown.append(
                TopPhotos(
                    query=query,
                    path=queries.paths[query] if len(queries.paths) else f"query {query}",
                    label=queries.classes[label],
                    note=note,
                    ap=ap,
                    photos=tuple(places),
                    paths=tuple(gallery.paths[i] if len(gallery.paths) else f"photo {i}" for i in places),
                    labels=tuple(gallery.classes[other] for other in labels),
                    scores=tuple(round(float(v), 6) for v in self._scores[query, : self._top]),
                    correct=tuple(other == label for other in labels),
                )
            )
        return tuple(shown)


def _counts(scores: Tensor, columns: Tensor, relevant: Tensor) -> tuple[Any, ...]:
    """Return the range of the scores and (FINE,) counts of the relevant and of the irrelevant pairs in it."""
    low, high = float(scores.min()), float(scores.max())
    high = high if high > low else low + 1.0
    valid = torch.arange(columns.shape[1], device=scores.device) < relevant[:, None]
    # float32 counts are exact to 2^24 only.
    blocks = scores.split(max(1, (1 << 24) // scores.shape[1]))
    every = sum(torch.histc(block, FINE, low, high).double().cpu().numpy() for block in blocks)
    same = torch.histc(scores.gather(1, columns)[valid], FINE, low, high).double().cpu().numpy()
    return low, high, same, every - same
