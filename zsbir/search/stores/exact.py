"""Exact search over a memory-mapped file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from zsbir.arguments import Count
from zsbir.search.stores import STORES
from zsbir.search.stores.base import Ids, Store, Vectors
from zsbir.search.vector_file import VectorFile, padded


class FileStore(Store):
    """A store whose vectors lie in a `VectorFile`."""

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

    def __len__(self) -> int:
        return len(self._file)

    def ids(self) -> Ids:
        """See `Store.ids`."""
        return self._file.ids()

    def vectors(self, ids: Ids) -> Vectors:
        """See `Store.vectors`."""
        return np.asarray(self._file.rows[self._file.rows_of(ids)], dtype=np.float32)


@STORES.register("exact")
class ExactStore(FileStore):
    """Every vector is compared, in a memory-mapped file: no loss, and the default up to about a million photos.

    Args:
        chunk: Rows scored at a time; bounds memory to ``queries * chunk`` scores.
    """

    def __init__(self, chunk: Count = 262_144) -> None:
        self.chunk = chunk

    def search(self, queries: Vectors, k: int) -> tuple[Vectors, Ids]:
        """See `Store.search`."""
        return padded(*self._file.nearest(queries, k, chunk=self.chunk), k)
