"""The store contract."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]


class Store:
    """Unit vectors by id, and the nearest of them to a query: higher scores are better.

    A store is opened on a folder, which it owns. Searching is thread-safe; changing is for one thread at a time, with
    no search in between (`zsbir.search.Index` sees to both).

    Attributes:
        spec: What `STORES.build` recorded.
    """

    spec: dict[str, Any]

    def open(self, folder: Path, dim: int) -> None:
        """Take what is in `folder`, which exists; an empty one is a new store for vectors of width `dim`."""
        raise TypeError(f"{type(self).__name__} has no open")

    def add(self, ids: Ids, vectors: Vectors) -> None:
        """Add (n, D) float32 vectors of length 1 under (n,) ids >= 0; an id that is known is replaced."""
        raise TypeError(f"{type(self).__name__} has no add")

    def remove(self, ids: Ids) -> None:
        """Remove ids; unknown ones are passed over."""
        raise TypeError(f"{type(self).__name__} has no remove")

    def flush(self) -> None:
        """Write everything to disk; what is added before this may be lost if the machine stops."""
        raise TypeError(f"{type(self).__name__} has no flush")

    def finish(self) -> None:
        """Make ready for searching after many changes: build, train, compact. By default nothing is needed."""

    def __len__(self) -> int:
        return len(self.ids())

    def ids(self) -> Ids:
        """Return all ids, in any order."""
        raise TypeError(f"{type(self).__name__} has no ids")

    def vectors(self, ids: Ids) -> Vectors:
        """Return the (n, D) vectors of known ids, in their order."""
        raise TypeError(f"{type(self).__name__} has no vectors")

    def search(self, queries: Vectors, k: int) -> tuple[Vectors, Ids]:
        """Return the nearest of each query.

        Args:
            queries: (q, D) float32 of length 1.
            k: How many are wanted, at least 1.

        Returns:
            The scores, (q, k) float32, falling, and the ids, (q, k). Where there are fewer than k, -inf and -1.
        """
        raise TypeError(f"{type(self).__name__} has no search")

    def close(self) -> None:
        """Let go of files and connections. By default there is nothing to do."""


def padded(scores: Vectors, ids: Ids, k: int) -> tuple[Vectors, Ids]:
    """Sort (q, n) scores and their ids, falling (ties: lower id first), and cut or pad them to k columns."""
    ids = np.where(np.isfinite(scores), ids, -1)
    order = np.lexsort((ids, -scores), axis=1)[:, :k]
    scores, ids = np.take_along_axis(scores, order, 1), np.take_along_axis(ids, order, 1)
    more = ((0, 0), (0, max(0, k - scores.shape[1])))
    return np.pad(scores, more, constant_values=-np.inf).astype(np.float32), np.pad(ids, more, constant_values=-1)
