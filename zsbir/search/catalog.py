"""Which photo has which id: a small SQLite file beside the vectors."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from zsbir.errors import ZsbirError


@dataclass(frozen=True)
class Entry:
    """A photo of the index.

    Attributes:
        path: Full path of the file.
        digest: BLAKE2b of its content, 16 bytes.
        size: Bytes.
        changed: Time of the last change in nanoseconds, as the file system gives it.
        source: The folder or list that it was found in; "": it was added by itself.
    """

    path: str
    digest: bytes
    size: int
    changed: int
    source: str = ""


class Catalog:
    """Photos by id, and files that could not be read; may be used from any thread.

    Args:
        file: The SQLite file; made if it is not there.

    Raises:
        ZsbirError: If it cannot be opened or is no catalogue.
    """

    def __init__(self, file: Path) -> None:
        self._lock, self._file = threading.Lock(), file
        try:
            self._db = sqlite3.connect(file, check_same_thread=False)
            self._db.executescript(
                "PRAGMA journal_mode=WAL;"
                "CREATE TABLE IF NOT EXISTS photos (id INTEGER PRIMARY KEY AUTOINCREMENT, path TEXT UNIQUE NOT NULL,"
                " digest BLOB NOT NULL, size INTEGER NOT NULL, changed INTEGER NOT NULL, source TEXT NOT NULL);"
                "CREATE INDEX IF NOT EXISTS by_digest ON photos (digest);"
                "CREATE TABLE IF NOT EXISTS skipped (path TEXT PRIMARY KEY, reason TEXT NOT NULL,"
                " source TEXT NOT NULL);"
                "CREATE TABLE IF NOT EXISTS sources (path TEXT PRIMARY KEY);"
            )
            self.path(0)
        except (sqlite3.Error, UnicodeDecodeError, ZsbirError) as error:  # sqlite quotes a damaged file's bytes
            raise ZsbirError(f"{file} cannot be opened as the catalogue of an index: {error}") from None

    @contextmanager
    def _using(self) -> Iterator[None]:
        """Take turns, in one transaction."""
        try:
            with self._lock, self._db:
                yield
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise ZsbirError(f"{self._file} is damaged or cannot be written: {error}") from None

    def __len__(self) -> int:
        with self._using():
            return int(self._db.execute("SELECT COUNT(*) FROM photos").fetchone()[0])

    def next_ids(self, count: int) -> list[int]:
        """Return `count` ids that were never given out before, and never will be, not even if this one is stopped."""
        with self._using():
            row = self._db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'photos'").fetchone()
            start = row[0] if row else 0
            change = "UPDATE sqlite_sequence SET seq = ? WHERE name = 'photos'"
            new = "INSERT INTO sqlite_sequence (seq, name) VALUES (?, 'photos')"
            self._db.execute(change if row else new, (start + count,))
        return list(range(start + 1, start + count + 1))

    def add(self, ids: Sequence[int], entries: Sequence[Entry]) -> None:
        """Write photos in one transaction; a known path is replaced."""
        rows = [(i, e.path, e.digest, e.size, e.changed, e.source) for i, e in zip(ids, entries, strict=True)]
        with self._using():
            self._db.executemany("DELETE FROM skipped WHERE path = ?", [(e.path,) for e in entries])
            self._db.executemany("INSERT OR REPLACE INTO photos VALUES (?, ?, ?, ?, ?, ?)", rows)

    def skip(self, files: Iterable[tuple[str, str, str]]) -> None:
        """Remember files (path, reason, source) that could not be read."""
        with self._using():
            self._db.executemany("INSERT OR REPLACE INTO skipped VALUES (?, ?, ?)", list(files))

    def move(self, moves: Sequence[tuple[int, Entry]]) -> None:
        """Give photos another path, size or time; what they show is the same. They may swap paths."""
        with self._using():
            self._db.executemany("UPDATE photos SET path = 'moving ' || id WHERE id = ?", [(i,) for i, _ in moves])
            self._db.executemany(
                "UPDATE photos SET path = ?, size = ?, changed = ?, source = ? WHERE id = ?",
                [(e.path, e.size, e.changed, e.source, i) for i, e in moves],
            )

    def remove(self, ids: Iterable[int]) -> None:
        """Forget photos."""
        with self._using():
            self._db.executemany("DELETE FROM photos WHERE id = ?", [(int(i),) for i in ids])

    def begin(self, source: str) -> None:
        """Remember a source, and forget which of its files could not be read: they are tried again."""
        with self._using():
            self._db.execute("INSERT OR IGNORE INTO sources VALUES (?)", (source,))
            self._db.execute("DELETE FROM skipped WHERE source = ?", (source,))

    def forget(self, source: str) -> None:
        """Forget a source."""
        with self._using():
            self._db.execute("DELETE FROM sources WHERE path = ?", (source,))
            self._db.execute("DELETE FROM skipped WHERE source = ?", (source,))

    def sources(self) -> list[str]:
        """Return the folders and lists that were indexed."""
        with self._using():
            return [str(row[0]) for row in self._db.execute("SELECT path FROM sources ORDER BY path")]

    def skipped(self) -> list[tuple[str, str, str]]:
        """Return the files that could not be read: path, reason, source."""
        with self._using():
            return list(self._db.execute("SELECT path, reason, source FROM skipped ORDER BY path"))

    def version(self) -> int:
        """Return a number that another process changes by writing."""
        with self._using():
            return int(self._db.execute("PRAGMA data_version").fetchone()[0])

    def path(self, photo: int) -> str | None:
        """Return the path of one photo, or None."""
        with self._using():
            row = self._db.execute("SELECT path FROM photos WHERE id = ?", (photo,)).fetchone()
        return None if row is None else str(row[0])

    def entry(self, photo: int) -> Entry | None:
        """Return one photo, or None."""
        with self._using():
            row = self._db.execute(
                "SELECT path, digest, size, changed, source FROM photos WHERE id = ?", (photo,)
            ).fetchone()
        return None if row is None else Entry(*row)

    def id_of(self, path: str) -> int | None:
        """Return the id of a path, or None."""
        with self._using():
            row = self._db.execute("SELECT id FROM photos WHERE path = ?", (path,)).fetchone()
        return None if row is None else int(row[0])

    def ids(self) -> npt.NDArray[np.int64]:
        """Return the ids of all photos, rising."""
        with self._using():
            rows = self._db.execute("SELECT id FROM photos ORDER BY id")
            return np.fromiter((row[0] for row in rows), dtype=np.int64)

    def under(self, path: str, most: int) -> list[int]:
        """Return up to `most` ids of photos that are at a path or below it."""
        below = path.rstrip(os.sep) + os.sep
        with self._using():
            rows = self._db.execute(
                "SELECT id FROM photos WHERE path = ? OR (path >= ? AND path < ?) LIMIT ?",
                (path, below, below[:-1] + chr(ord(os.sep) + 1), most),
            )
            return [int(row[0]) for row in rows]

    def some(self, after: int, most: int) -> list[tuple[int, Entry]]:
        """Return up to `most` photos whose ids are above one, in the order of ids."""
        wanted = "SELECT id, path, digest, size, changed, source FROM photos WHERE id > ? ORDER BY id LIMIT ?"
        with self._using():
            return [(int(i), Entry(*rest)) for i, *rest in self._db.execute(wanted, (after, most))]

    def entries(self) -> Iterator[tuple[int, Entry]]:
        """Return all photos with their ids."""
        last = 0
        while part := self.some(last, 10_000):
            yield from part
            last = part[-1][0]

    def checkpoint(self) -> None:
        """Write everything into the one file, so that it can be copied."""
        with self._lock:
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()
