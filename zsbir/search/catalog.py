"""Which photo has which id: a small SQLite file beside the vectors."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
        source: The folder or list that it was found in; "": it was added as a single file.
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
        self._folders: tuple[tuple[int, int], set[str]] = (0, 0), set()
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
            self.entry(0)
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

    def _ask(self, question: str, *values: Any) -> list[Any]:
        """Return the rows of the answer."""
        with self._using():
            return self._db.execute(question, values).fetchall()

    def _change(self, *changes: tuple[str, Iterable[Sequence[Any]]]) -> None:
        """Run statements in one transaction, each for many rows of values."""
        with self._using():
            for change, rows in changes:
                self._db.executemany(change, rows)

    def __len__(self) -> int:
        return int(self._ask("SELECT COUNT(*) FROM photos")[0][0])

    def next_ids(self, count: int) -> list[int]:
        """Return `count` new ids; none is ever given out twice, even if this process stops."""
        with self._using():
            row = self._db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'photos'").fetchone()
            start = row[0] if row else 0
            change = "UPDATE sqlite_sequence SET seq = ? WHERE name = 'photos'"
            new = "INSERT INTO sqlite_sequence (seq, name) VALUES (?, 'photos')"
            self._db.execute(change if row else new, (start + count,))
        return list(range(start + 1, start + count + 1))

    def add(self, ids: Sequence[int], entries: Sequence[Entry]) -> None:
        """Write photos in one transaction; a known path is replaced."""
        rows = [(i, *vars(entry).values()) for i, entry in zip(ids, entries, strict=True)]
        self._change(
            ("DELETE FROM skipped WHERE path = ?", [(entry.path,) for entry in entries]),
            ("INSERT OR REPLACE INTO photos VALUES (?, ?, ?, ?, ?, ?)", rows),
        )

    def skip(self, files: Iterable[tuple[str, str, str]]) -> None:
        """Remember files (path, reason, source) that could not be read."""
        self._change(("INSERT OR REPLACE INTO skipped VALUES (?, ?, ?)", files))

    def move(self, moves: Sequence[tuple[int, Entry]]) -> None:
        """Give photos another path, size or time; what they show is the same. They may swap paths."""
        self._change(
            ("UPDATE photos SET path = 'moving ' || id WHERE id = ?", [(i,) for i, _ in moves]),
            (
                "UPDATE photos SET path = ?, size = ?, changed = ?, source = ? WHERE id = ?",
                [(e.path, e.size, e.changed, e.source, i) for i, e in moves],
            ),
        )

    def remove(self, ids: Iterable[int]) -> None:
        """Forget photos."""
        self._change(("DELETE FROM photos WHERE id = ?", [(i,) for i in ids]))

    def begin(self, source: str) -> None:
        """Remember a source, and forget which of its files could not be read: they are tried again."""
        self._change(
            ("INSERT OR IGNORE INTO sources VALUES (?)", [(source,)]),
            ("DELETE FROM skipped WHERE source = ?", [(source,)]),
        )

    def forget(self, source: str) -> None:
        """Forget a source, and which of its files could not be read."""
        self._change(
            ("DELETE FROM sources WHERE path = ?", [(source,)]), ("DELETE FROM skipped WHERE source = ?", [(source,)])
        )

    def sources(self) -> list[str]:
        """Return the folders and lists that were indexed."""
        return [path for (path,) in self._ask("SELECT path FROM sources ORDER BY path")]

    def skipped(self) -> list[tuple[str, str, str]]:
        """Return the files that could not be read: path, reason, source."""
        return self._ask("SELECT path, reason, source FROM skipped ORDER BY path")

    def version(self) -> int:
        """Return a number that another process changes by writing."""
        return int(self._ask("PRAGMA data_version")[0][0])

    def entry(self, photo: int) -> Entry | None:
        """Return one photo, or None."""
        return next((entry for number, entry in self.some(photo - 1, 1) if number == photo), None)

    def id_of(self, path: str) -> int | None:
        """Return the id of a path, or None."""
        return next((number for (number,) in self._ask("SELECT id FROM photos WHERE path = ?", path)), None)

    def ids(self) -> npt.NDArray[np.int64]:
        """Return the ids of all photos, rising."""
        with self._using():
            rows = self._db.execute("SELECT id FROM photos ORDER BY id")
            return np.fromiter((row[0] for row in rows), dtype=np.int64)

    def under(self, path: str, most: int) -> list[int]:
        """Return up to `most` ids of photos that are at a path or below it."""
        below = path.rstrip(os.sep) + os.sep
        wanted = "SELECT id FROM photos WHERE path = ? OR (path >= ? AND path < ?) LIMIT ?"
        return [number for (number,) in self._ask(wanted, path, below, below[:-1] + chr(ord(os.sep) + 1), most)]

    def folders(self) -> set[str]:
        """Return the folders that photos are in; the catalogue is walked again only once it has changed."""
        with self._using():
            now = self._db.execute("PRAGMA data_version").fetchone()[0], self._db.total_changes
            if now != self._folders[0]:
                paths = self._db.execute("SELECT path FROM photos")
                self._folders = now, {path.rpartition(os.sep)[0] or os.sep for (path,) in paths}
            return self._folders[1]

    def some(self, after: int, most: int) -> list[tuple[int, Entry]]:
        """Return up to `most` photos whose ids are above one, in the order of ids."""
        wanted = "SELECT id, path, digest, size, changed, source FROM photos WHERE id > ? ORDER BY id LIMIT ?"
        return [(number, Entry(*rest)) for number, *rest in self._ask(wanted, after, most)]

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
