"""Changing an index: one writer at a time, across threads and processes."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from zsbir.data.scan import Skipped, photo_files
from zsbir.errors import ZsbirError
from zsbir.search.catalog import Catalog, Entry
from zsbir.search.model import Embedder
from zsbir.search.scan import Changes, compare
from zsbir.search.searching import Searching
from zsbir.search.stores import STORES
from zsbir.search.stores.base import Store, Vectors

Skip = tuple[str, str, str]
"""A file that could not be read: its path, the reason, and the folder or list that it is from."""

_EACH = 256
"""Photos between two writes: what a stopped run loses, and a batch more."""

_AT_ONCE = 10_000
"""Photos that are removed in one transaction."""


class Writing(Searching):
    """What an index is changed with: catalogue and vectors change together.

    Args:
        folder: The index.
        record: What ``index.json`` says.
        embedder: Makes vectors of photos and queries.
    """

    def __init__(self, folder: Path, record: dict[str, Any], embedder: Embedder) -> None:
        self.folder, self.record = folder, record
        store: Store = STORES.build(record["store"])
        (folder / "store").mkdir(exist_ok=True)
        store.open(folder / "store", record["dim"])
        super().__init__(embedder, Catalog(folder / "photos.sqlite"), store, folder / "matchers")
        self._version = self.catalog.version()
        self._thread = threading.RLock()
        self._process = FileLock(folder / "writing.lock", timeout=0, thread_local=False)

    def update(
        self,
        photos: str | Path | None = None,
        *,
        prune: bool = False,
        links: bool = False,
        **options: Any,
    ) -> Changes:
        """Add the photos of a folder or list, and follow what changed in it; photos of others stay as they are.

        Photos that are in already are not embedded again. Those that vanished from the folder are removed, unless that
        is more than a tenth of its photos, or the folder itself is gone: a disk may not be mounted. Then they are kept,
        see `Changes.kept`, and `prune` removes them. It may be stopped at any moment and called again. Files that
        cannot be read are skipped: see `skipped`.

        Args:
            photos: See `photo_files`; None: every folder and list that was indexed before.
            prune: Remove all photos whose files are gone.
            links: Follow links that lead out of the folder.
            **options: As for `zsbir.methods.embedding.apply`: batch_size, workers (2), progress, precision, decode.

        Returns:
            What was found to have changed.

        Raises:
            ZsbirError: If there is no such folder or list, or another process is changing the index.
        """
        with self._writing():
            if lost := self._repair():
                self.add(lost, **options)
            total = Changes()
            for source in self.catalog.sources() if photos is None else [str(Path(photos).absolute())]:
                changes = self._look(source, prune, links)
                self._apply(changes, source, **options)
                for part in fields(Changes):
                    setattr(total, part.name, getattr(total, part.name) + getattr(changes, part.name))
        return total

    def add(self, photos: str | Path | Iterable[str | Path], **options: Any) -> Changes:
        """Add image files, or those of a folder; those that are in are embedded again only if their content changed.

        Options are as for `zsbir.methods.embedding.apply`.
        """
        if isinstance(photos, (str, Path)):
            photos = photo_files(photos)
        files = [str(Path(photo).absolute()) for photo in photos]
        with self._writing():
            changes = compare(files, self.catalog.entries())
            self._apply(changes, "", **options)
        return changes

    def extend(self, parts: Iterable[tuple[Sequence[Entry], Vectors, Sequence[Skip]]]) -> None:
        """Add photos that are embedded already, but for those that are in: entries, (n, D) vectors, skipped files."""
        with self._writing():
            self._repair()
            for entries, vectors, skipped in parts:
                rows = {e.path: row for row, e in enumerate(entries) if self.catalog.id_of(e.path) is None}
                new = list(rows.values())
                self._insert([entries[row] for row in new], vectors[new], skipped)
            self._finish()

    def remove(self, photos: str | Path | Iterable[str | Path]) -> int:
        """Remove photos by path, and all below a folder; returns how many there were.

        Memory does not grow with their number. What still lies in a folder that was indexed comes back when that is
        updated.
        """
        count = 0
        with self._writing():
            for photo in [photos] if isinstance(photos, (str, Path)) else photos:
                path = str(photo) if "://" in str(photo) else str(Path(photo).absolute())
                while ids := self.catalog.under(path, _AT_ONCE):
                    with self._lock.writing():
                        self._drop(ids)
                    count += len(ids)
                self.catalog.forget(path)
            self._finish()
        return count

    def fit_matcher(self, matcher: str | Mapping[str, Any]) -> None:
        """Fit a matcher on the whole index and keep it there: `search` then uses it by its name, on all photos."""
        with self._writing(), self._lock.reading():
            self._fit(matcher)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Keep other processes and threads from changing the index, and see what they changed before."""
        with self._thread:
            try:
                self._process.acquire()
            except Timeout:
                raise ZsbirError(f"another process is changing {self.folder}: wait until it is done") from None
            try:
                if self.catalog.version() != self._version:
                    with self._lock.writing():
                        self.store.close()
                        self.store.open(self.folder / "store", self.record["dim"])
                        self._version = self.catalog.version()
                yield
            finally:
                self._process.release()

    def _repair(self) -> list[str]:
        """Remove what only the catalogue or only the store has; return the single files that were lost so."""
        with self._lock.writing():
            single: list[int] = np.setxor1d(self.catalog.ids(), self.store.ids()).tolist()
            entries = [self.catalog.entry(number) for number in single]
            self._drop(single)
        return [entry.path for entry in entries if entry is not None and not entry.source]

    def _look(self, source: str, prune: bool, links: bool) -> Changes:
        """Find what changed in a folder or list, and remember it; photos that are to stay are moved to `kept`."""
        left_out: Skipped = []
        there = Path(source).exists() or source not in self.catalog.sources()
        files = photo_files(source, left_out, links) if there else iter(())
        changes = compare(files, self.catalog.entries(), source, left_out)
        if not prune and (not there or 10 * len(changes.vanished) > changes.known):
            changes.kept, changes.vanished = changes.kept + changes.vanished, []
        self.catalog.begin(source)
        if prune and not there:
            self.catalog.forget(source)
        return changes

    def _apply(self, changes: Changes, source: str, **options: Any) -> None:
        """Make the index follow changes; new photos are embedded and written some batches at a time."""
        with self._lock.writing():
            self._drop(changes.changed + changes.vanished)
            self.catalog.move(changes.moved)
            self.catalog.skip([(path, reason, source) for path, reason in changes.unreadable])
        if changes.copies:
            vectors = self.store.vectors(np.array([number for number, _ in changes.copies], dtype=np.int64))
            self._insert([entry for _, entry in changes.copies], vectors, [])
        new, done, vectors_done, skipped = changes.new, list[Entry](), list[Vectors](), list[Skip]()

        def write() -> None:
            empty = np.zeros((0, self.record["dim"]), np.float32)
            self._insert(done, np.concatenate([empty, *vectors_done]), skipped)
            for held in (done, vectors_done, skipped):
                held.clear()

        stream = self.embedder.stream(
            [entry.path for entry in new], "photo", **{"workers": 2, **options},
            skip=lambda row, reason: skipped.append((new[row].path, reason, source)),
        )  # fmt: skip
        for rows, vectors in stream:
            done += [new[row] for row in rows]
            vectors_done.append(vectors)
            if len(done) >= _EACH:
                write()
        write()
        self._finish()

    def _drop(self, ids: list[int]) -> None:
        self.catalog.remove(ids)
        self.store.remove(np.array(ids, dtype=np.int64))

    def _insert(self, entries: Sequence[Entry], vectors: Vectors, skipped: Sequence[Skip]) -> None:
        """Add photos: vectors first, so that a photo of the catalogue always has one."""
        with self._lock.writing():
            ids = self.catalog.next_ids(len(entries))
            if ids:
                self.store.add(np.array(ids, dtype=np.int64), vectors)
                self.store.flush()
            self.catalog.add(ids, entries)
            self.catalog.skip(skipped)

    def _finish(self) -> None:
        """Make the store ready for searching."""
        with self._lock.writing():
            self.store.flush()
            self.store.finish()
