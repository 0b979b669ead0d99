"""Exact search over a memory-mapped file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from zsbir.arguments import Count
from zsbir.search.stores import STORES
from zsbir.search.stores.base import Ids, Store, Vectors
from zsbir.search.vector_file import VectorFile


@STORES.register("exact")
class ExactStore(Store):
    """Every vector is compared, in a memory-mapped file: no loss, and the default up to about a million photos.

    Args:
        chunk: Rows scored at a time; bounds memory to ``queries * chunk`` scores.
    """

    def __init__(self, chunk: Count = 262_144) -> None:
        self.chunk = chunk

    def open(self, folder: Path, dim: int) -> None:
        """See `Store.open`."""
        self._file = VectorFile(folder, dim)

    def add(self, ids: Ids, vectors: Vectors) -> None:
        """See `Store.add`."""
        self._file.append(ids, vectors)

    def remove(self, ids: Ids) -> None:
        """See `Store.remove`."""
        self._file.kill(ids)

    def flush(self) -> None:
        """See `Store.flush`."""
        self._file.sync()

    def finish(self) -> None:
        """Rewrite the file once a third of its rows are dead."""
        if 3 * self._file.dead > len(self._file.row_ids):
            self._file.compact()

    def ids(self) -> Ids:
        """See `Store.ids`."""
        return self._file.ids()

    def vectors(self, ids: Ids) -> Vectors:
        """See `Store.vectors`."""
        return np.asarray(self._file.rows[self._file.rows_of(ids)], dtype=np.float32)

    def search(self, queries: Vectors, k: int) -> tuple[Vectors, Ids]:
        """See `Store.search`."""
        rows, row_ids = self._file.rows, self._file.row_ids
        best = np.full((len(queries), 0), -np.inf, dtype=np.float32)
        found = np.full((len(queries), 0), -1, dtype=np.int64)
        for start in range(0, len(row_ids), self.chunk):
            part = np.asarray(rows[start : start + self.chunk])
            # One query goes as a vector: BLAS reads the matrix once, at the speed of memory.
            scores = (part @ queries[0])[None] if len(queries) == 1 else queries @ part.T
            scores[:, row_ids[start : start + len(part)] < 0] = -np.inf
            at = top(scores, k)
            best = np.concatenate([best, np.take_along_axis(scores, at, 1)], axis=1)
            found = np.concatenate([found, row_ids[start + at]], axis=1)
        return padded(best, found, k)


def top(scores: Vectors, k: int) -> Ids:
    """Return the positions (q, min(k, n)) of the largest of (q, n) scores, in any order."""
    if k >= scores.shape[1]:
        return np.broadcast_to(np.arange(scores.shape[1]), scores.shape)
    return np.argpartition(scores, scores.shape[1] - k, axis=1)[:, -k:]


def padded(scores: Vectors, ids: Ids, k: int) -> tuple[Vectors, Ids]:
    """Sort (q, n) scores and their ids, falling (ties: lower id first), and cut or pad them to k columns."""
    ids = np.where(np.isfinite(scores), ids, -1)
    order = np.lexsort((ids, -scores), axis=1)[:, :k]
    scores, ids = np.take_along_axis(scores, order, 1), np.take_along_axis(ids, order, 1)
    missing = k - scores.shape[1]
    if missing > 0:
        scores = np.pad(scores, ((0, 0), (0, missing)), constant_values=-np.inf)
        ids = np.pad(ids, ((0, 0), (0, missing)), constant_values=-1)
    return scores.astype(np.float32), ids
