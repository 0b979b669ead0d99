"""Changing an index: one writer at a time, across threads and processes."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from zsbir.data.scan import Skipped, photo_files
from zsbir.errors import ZsbirError
from zsbir.search.catalog import Catalog, Entry
from zsbir.search.locks import SharedLock
from zsbir.search.model import Embedder
from zsbir.search.scan import Changes, compare
from zsbir.search.stores.base import Store, Vectors

Skip = tuple[str, str, str]
"""A file that could not be read: its path, the reason, and the folder or list that it is from."""

_EACH = 256
"""Photos between two writes: what a stopped run loses, and a batch more."""

_AT_ONCE = 10_000
"""Photos that are removed in one transaction."""


class Writer:
    """What changes the catalogue and the vectors of an index together.

    Args:
        folder: The index.
        catalog: Its photos.
        store: Its vectors.
        dim: Width of the vectors.
        lock: Held alone while either changes.
    """

    def __init__(self, folder: Path, catalog: Catalog, store: Store, dim: int, lock: SharedLock) -> None:
        self._folder, self._catalog, self._store, self._dim, self._lock = folder, catalog, store, dim, lock
        self._version = catalog.version()
        self._thread = threading.RLock()
        self._process = FileLock(folder / "writing.lock", timeout=0, thread_local=False)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Keep other processes and threads from changing the index, and see what they changed before."""
        with self._thread:
            try:
                self._process.acquire()
            except Timeout:
                raise ZsbirError(f"another process is changing {self._folder}: wait until it is done") from None
            try:
                if self._catalog.version() != self._version:
                    with self._lock.writing():
                        self._store.close()
                        self._store.open(self._folder / "store", self._dim)
                        self._version = self._catalog.version()
                yield
            finally:
                self._process.release()

    def repair(self) -> list[str]:
        """Remove what is in only one of catalogue and store; returns the files that no folder or list brings back."""
        with self._lock.writing():
            numbers, stored = self._catalog.ids(), self._store.ids()
            self._store.remove(np.setdiff1d(stored, numbers))
            lost = np.setdiff1d(numbers, stored).tolist()
            entries = [self._catalog.entry(number) for number in lost]
            self._catalog.remove(lost)
        return [entry.path for entry in entries if entry is not None and not entry.source]

    def look(self, source: str, prune: bool, links: bool) -> Changes:
        """Find what changed in a folder or list, and remember it; photos that are to stay are moved to `kept`."""
        left_out: Skipped = []
        known = self._catalog.sources()
        there = Path(source).exists() or source not in known
        files = photo_files(source, left_out, links) if there else iter(())
        changes = compare(files, self._catalog.entries(), source, left_out)
        if not prune and (not there or 10 * len(changes.vanished) > changes.known):
            changes.kept, changes.vanished = changes.kept + changes.vanished, []
        self._catalog.begin(source)
        if prune and not there:
            self._catalog.forget(source)
        return changes

    def apply(self, changes: Changes, source: str, embedder: Embedder, **options: Any) -> None:
        """Make the index follow changes; new photos are embedded and written some batches at a time."""
        gone = changes.changed + changes.vanished
        with self._lock.writing():
            self._catalog.remove(gone)
            self._store.remove(np.array(gone, dtype=np.int64))
            self._catalog.move(changes.moved)
            self._catalog.skip([(path, reason, source) for path, reason in changes.unreadable])
            if changes.copies:
                vectors = self._store.vectors(np.array([number for number, _ in changes.copies], dtype=np.int64))
                self._insert([entry for _, entry in changes.copies], vectors, [])
        new, done, vectors_done, skipped = changes.new, list[Entry](), list[Vectors](), list[Skip]()

        def write() -> None:
            found = np.concatenate(vectors_done) if vectors_done else np.zeros((0, self._dim), np.float32)
            self._insert(done, found, skipped)
            for held in (done, vectors_done, skipped):
                held.clear()

        stream = embedder.stream(
            [entry.path for entry in new], "photo", **{"workers": 2, **options},
            skip=lambda row, reason: skipped.append((new[row].path, reason, source)),
        )  # fmt: skip
        for rows, vectors in stream:
            done += [new[row] for row in rows]
            vectors_done.append(vectors)
            if len(done) >= _EACH:
                write()
        write()
        self.finish()

    def extend(self, parts: Iterable[tuple[Sequence[Entry], Vectors, Sequence[Skip]]]) -> None:
        """Add photos that are embedded already, but for those whose path is in the index."""
        for entries, vectors, skipped in parts:
            rows = {e.path: row for row, e in enumerate(entries) if self._catalog.id_of(e.path) is None}
            new = list(rows.values())
            self._insert([entries[row] for row in new], vectors[new], skipped)
        self.finish()

    def remove(self, paths: Iterable[str]) -> int:
        """Remove photos by path, and all below a folder; returns how many."""
        count = 0
        for path in paths:
            while ids := self._catalog.under(path, _AT_ONCE):
                with self._lock.writing():
                    self._catalog.remove(ids)
                    self._store.remove(np.array(ids, dtype=np.int64))
                count += len(ids)
            self._catalog.forget(path)
        self.finish()
        return count

    def finish(self) -> None:
        """Make the store ready for searching."""
        with self._lock.writing():
            self._store.flush()
            self._store.finish()

    def _insert(self, entries: Sequence[Entry], vectors: Vectors, skipped: Sequence[Skip]) -> None:
        """Add photos: vectors first, so that a photo of the catalogue always has one."""
        with self._lock.writing():
            ids = self._catalog.next_ids(len(entries))
            if ids:
                self._store.add(np.array(ids, dtype=np.int64), vectors)
                self._store.flush()
            self._catalog.add(ids, entries)
            self._catalog.skip(skipped)
