"""Exact search over a memory-mapped file that grows at its end."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np

from zsbir.arguments import Count
from zsbir.errors import ZsbirError
from zsbir.search.stores import STORES
from zsbir.search.stores.base import Ids, Store, Vectors, padded

_ROWS = 262_144


class FileStore(Store):
    """Rows of float32 in ``vectors.f32`` with their ids in ``ids.i64``, both raw, little-endian and memory-mapped.

    A row counts once both files have it, so a machine that stops while adding leaves whole rows only. A removed row
    stays until the files are compacted, its id as the complement ``~id``; they get new names, ``vectors-1.f32`` and so
    on, so that those who search in the old ones are not disturbed. What is in memory does not grow with the file, as
    long as ids rise from row to row, which is how an index gives them out; others are sorted in memory when they are
    looked up.

    Attributes:
        rows: (n, D) float32.
        row_ids: (n,) int64, negative where the row is removed.
        dead: How many rows are removed but still in the file.
        generation: How many times it was compacted.
    """

    def open(self, folder: Path, dim: int) -> None:
        """See `Store.open`; raises ZsbirError if the files cannot be written."""
        self._folder, self._width = folder, dim
        self.generation = max((self._number(file) for file in folder.glob("ids*.i64")), default=0)
        for file in self._files():
            try:
                file.touch()
            except PermissionError:
                if not file.is_file():
                    raise ZsbirError(f"{file} cannot be written") from None
        self._map()
        self.dead, self._largest, self._rising = 0, -1, True
        for start in range(0, len(self.row_ids), _ROWS):
            self._note(self.row_ids[start : start + _ROWS])

    def __len__(self) -> int:
        """Return how many rows are alive."""
        return len(self.row_ids) - self.dead

    @staticmethod
    def _number(file: Path) -> int:
        return int(file.stem.partition("-")[2] or 0)

    def _files(self) -> tuple[Path, Path]:
        mark = f"-{self.generation}" if self.generation else ""
        return self._folder / f"vectors{mark}.f32", self._folder / f"ids{mark}.i64"

    def _map(self) -> None:
        vectors, ids = self._files()
        rows = min(vectors.stat().st_size // (4 * self._width), ids.stat().st_size // 8)
        shape = (rows, self._width)
        self.rows: Vectors = np.memmap(vectors, "<f4", "r", shape=shape) if rows else np.zeros(shape, np.float32)
        self.row_ids: Ids = np.memmap(ids, "<i8", "r", shape=(rows,)) if rows else np.zeros(0, np.int64)

    def _note(self, ids: Ids) -> None:
        """Count (n,) ids that follow those before."""
        known = np.where(ids < 0, ~ids, ids)
        self.dead += int((ids < 0).sum())
        self._rising &= bool(known[0] > self._largest and (np.diff(known) > 0).all())
        self._largest = max(self._largest, int(known.max()))

    def ids(self) -> Ids:
        """See `Store.ids`; here they rise."""
        return np.sort(self.row_ids[self.row_ids >= 0])

    def vectors(self, ids: Ids) -> Vectors:
        """See `Store.vectors`."""
        return np.asarray(self.rows[self.rows_of(ids)], dtype=np.float32)

    def rows_of(self, ids: Ids) -> Ids:
        """Return the row of each id, -1 where there is none."""
        total = len(self.row_ids)
        if not total:
            return np.full(len(ids), -1, dtype=np.int64)
        if not self._rising:
            alive = np.flatnonzero(self.row_ids >= 0)
            order = alive[np.argsort(self.row_ids[alive], kind="stable")]
            at = order[np.minimum(np.searchsorted(self.row_ids[order], ids), len(order) - 1)] if len(order) else 0 * ids
            return np.where(self.row_ids[at] == ids, at, -1).astype(np.int64)
        low, high = np.zeros(len(ids), np.int64), np.full(len(ids), total)
        for _ in range(total.bit_length()):  # bisection of all ids at once: each step looks at one place of the file
            middle = (low + high) // 2
            held = self.row_ids[np.minimum(middle, total - 1)]
            before = (np.where(held < 0, ~held, held) < ids) & (low < high)
            low, high = np.where(before, middle + 1, low), np.where(before, high, middle)
        low = np.minimum(low, total - 1)
        return np.where(self.row_ids[low] == ids, low, -1).astype(np.int64)

    def add(self, ids: Ids, vectors: Vectors) -> None:
        """See `Store.add`: rows are added at the end, living rows of the same ids are removed."""
        if vectors.shape != (len(ids), self._width):
            raise ZsbirError(f"the index holds vectors of width {self._width}, and got {vectors.shape} for {len(ids)}")
        if not len(ids):
            return
        self.remove(ids[ids <= self._largest])
        rows = len(self.row_ids)
        parts = (4 * self._width, np.ascontiguousarray(vectors, "<f4")), (8, ids.astype("<i8"))
        try:
            for file, (item, data) in zip(self._files(), parts, strict=True):
                with open(file, "r+b") as stream:
                    stream.truncate(rows * item)  # what an interrupted append left behind
                    stream.seek(0, os.SEEK_END)
                    stream.write(data.data)
        except OSError as error:
            raise ZsbirError(f"{self._folder} cannot be written: {error.strerror}") from error
        self._map()
        self._note(ids)

    def remove(self, ids: Ids) -> None:
        """See `Store.remove`: the rows are marked."""
        rows = np.unique(self.rows_of(ids))
        rows = rows[rows >= 0]
        if len(rows):
            marks = np.memmap(self._files()[1], "<i8", "r+", shape=self.row_ids.shape)
            marks[rows] = ~marks[rows]
            marks.flush()
            self.dead += len(rows)

    def flush(self) -> None:
        """See `Store.flush`."""
        for file in self._files():
            with open(file, "rb") as stream:
                os.fsync(stream.fileno())

    def finish(self) -> None:
        """Rewrite the files once a third of their rows are dead."""
        if 3 * self.dead > len(self.row_ids):
            self._compact()

    def _compact(self) -> None:
        """Write the living rows into new files, in bounded memory; a machine that stops meanwhile leaves the old ones.

        The new ids come last and under their name at once: from then on the new files are the ones that count.
        """
        rows, row_ids = self.rows, self.row_ids

        def alive() -> Iterator[Ids]:
            for start in range(0, len(row_ids), _ROWS // 4):
                yield start + np.flatnonzero(row_ids[start : start + _ROWS // 4] >= 0)

        self.generation += 1
        vectors, ids = self._files()
        part = ids.with_suffix(".new")
        for file, held in ((vectors, rows), (part, row_ids)):
            with open(file, "wb") as stream:
                for some in alive():
                    stream.write(np.ascontiguousarray(held[some]).data)
                stream.flush()
                os.fsync(stream.fileno())
        part.replace(ids)
        self._map()
        self.dead = 0
        for file in (*self._folder.glob("vectors*.f32"), *self._folder.glob("ids*.i64")):
            if self._number(file) < self.generation:
                with suppress(PermissionError):  # Windows keeps a file that somebody searches in
                    file.unlink()

    def nearest(self, queries: Vectors, k: int, start: int = 0, chunk: int = _ROWS) -> tuple[Vectors, Ids]:
        """Compare queries (q, D) with every living row from `start` on, `chunk` at a time.

        Returns:
            The scores and ids (q, n) of at least the best k where there are as many, in any order; -inf: none.
        """
        best = np.full((len(queries), 0), -np.inf, dtype=np.float32)
        found = np.full((len(queries), 0), -1, dtype=np.int64)
        for first in range(start, len(self.row_ids), chunk):
            part, ids = np.asarray(self.rows[first : first + chunk]), self.row_ids[first : first + chunk]
            # One query goes as a vector: BLAS reads the matrix once, at the speed of memory.
            scores = (part @ queries[0])[None] if len(queries) == 1 else queries @ part.T
            scores[:, ids < 0] = -np.inf
            at = top(scores, k)
            best = np.concatenate([best, np.take_along_axis(scores, at, 1)], axis=1)
            found = np.concatenate([found, ids[at]], axis=1)
        return best, found


def top(scores: Vectors, k: int) -> Ids:
    """Return the positions (q, min(k, n)) of the largest of (q, n) scores, in any order."""
    if k >= scores.shape[1]:
        return np.broadcast_to(np.arange(scores.shape[1]), scores.shape)
    return np.argpartition(scores, scores.shape[1] - k, axis=1)[:, -k:]


@STORES.register("exact")
class ExactStore(FileStore):
    """Every vector is compared, in a memory-mapped file: no loss, and the default up to about a million photos.

    Args:
        chunk: Rows scored at a time; bounds memory to ``queries * chunk`` scores.
    """

    def __init__(self, chunk: Count = _ROWS) -> None:
        self.chunk = chunk

    def search(self, queries: Vectors, k: int) -> tuple[Vectors, Ids]:
        """See `Store.search`."""
        return padded(*self.nearest(queries, k, chunk=self.chunk), k)
