"""Vectors in a plain file that only grows, read through the page cache: the ground of the exact and the faiss store."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from zsbir.errors import ZsbirError
from zsbir.search.stores.base import Ids, Vectors

_DEAD = -1


class VectorFile:
    """Rows of float32 in ``vectors.f32`` with their ids in ``ids.i64``, both raw and little-endian.

    A removed row stays in the file with id -1 until `compact`. A row counts once both files have it, so a machine that
    stops while adding leaves whole rows only.

    Args:
        folder: Where the two files are or will be.
        dim: Width of the rows.

    Raises:
        ZsbirError: If the files cannot be written.
    """

    def __init__(self, folder: Path, dim: int) -> None:
        self._files = folder / "vectors.f32", folder / "ids.i64"
        self._width = dim
        for file in self._files:
            try:
                file.touch()
            except PermissionError:
                if not file.is_file():
                    raise ZsbirError(f"{file} cannot be written") from None
        self._map()

    def _map(self) -> None:
        vectors, ids = self._files
        rows = min(vectors.stat().st_size // (4 * self._width), ids.stat().st_size // 8)
        shape = (rows, self._width)
        self.rows: Vectors = (
            np.memmap(vectors, dtype="<f4", mode="r", shape=shape) if rows else np.zeros(shape, dtype=np.float32)
        )
        self.row_ids: Ids = np.fromfile(ids, dtype="<i8", count=rows)
        alive = np.flatnonzero(self.row_ids != _DEAD)
        order = np.argsort(self.row_ids[alive], kind="stable")
        self._by_id = alive[order]
        self._sorted = self.row_ids[self._by_id]

    @property
    def dead(self) -> int:
        """How many rows are removed but still in the file."""
        return len(self.row_ids) - len(self._sorted)

    def ids(self) -> Ids:
        """Return the ids of the living rows, rising."""
        return self._sorted

    def rows_of(self, ids: Ids) -> Ids:
        """Return the row of each id, -1 where there is none."""
        if not len(self._sorted):
            return np.full(len(ids), -1, dtype=np.int64)
        at = np.minimum(np.searchsorted(self._sorted, ids), len(self._sorted) - 1)
        return np.where(self._sorted[at] == ids, self._by_id[at], -1).astype(np.int64)

    def append(self, ids: Ids, vectors: Vectors) -> None:
        """Add rows at the end; living rows of the same ids are removed."""
        if vectors.shape != (len(ids), self._width):
            raise ZsbirError(f"the index holds vectors of width {self._width}, and got {vectors.shape} for {len(ids)}")
        self.kill(ids)
        rows = len(self.row_ids)
        try:
            for file, item, data in zip(
                self._files,
                (4 * self._width, 8),
                (np.ascontiguousarray(vectors, dtype="<f4"), ids.astype("<i8")),
                strict=True,
            ):
                with open(file, "r+b") as stream:
                    stream.truncate(rows * item)  # what an interrupted append left behind
                    stream.seek(0, os.SEEK_END)
                    stream.write(data.tobytes())
        except OSError as error:
            raise ZsbirError(f"{self._files[0].parent} cannot be written: {error.strerror}") from error
        self._map()

    def kill(self, ids: Ids) -> None:
        """Mark the rows of these ids as removed."""
        rows = self.rows_of(ids)
        rows = rows[rows >= 0]
        if len(rows):
            marks = np.memmap(self._files[1], dtype="<i8", mode="r+", shape=self.row_ids.shape)
            marks[rows] = _DEAD
            marks.flush()
            del marks
            self._map()

    def sync(self) -> None:
        """Force the files to disk."""
        for file in self._files:
            with open(file, "rb") as stream:
                os.fsync(stream.fileno())

    def compact(self) -> None:
        """Rewrite the files without the removed rows.

        The ids go first, as all removed: a machine that stops in between leaves no vector under a wrong id.
        """
        keep = np.flatnonzero(self.row_ids != _DEAD)
        ids, fresh = self.row_ids[keep], [file.with_name(file.name + ".new") for file in self._files]
        with open(fresh[0], "wb") as stream:
            for start in range(0, len(keep), 65536):
                stream.write(np.ascontiguousarray(self.rows[keep[start : start + 65536]]).tobytes())
        ids.astype("<i8").tofile(fresh[1])
        self.rows = np.zeros((0, self._width), dtype=np.float32)  # lets go of the map
        np.full(len(self.row_ids), _DEAD, dtype="<i8").tofile(self._files[1])
        fresh[0].replace(self._files[0])
        fresh[1].replace(self._files[1])
        self._map()
