"""Keep bytes by key in one SQLite file, for what can be made again: decoded images, hashes, masks.

Every value carries a checksum over its key and itself, so a damaged store loses values and never gives another's.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import threading
import warnings
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock

from zsbir.errors import ZsbirError
from zsbir.files import stamp, writing

R = TypeVar("R")
_SET_UP = (
    "PRAGMA page_size = 16384",  # of 4 to 64 kB the best for values of 25 bytes and of 150 kB alike
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = NORMAL",
    "CREATE TABLE IF NOT EXISTS item (key BLOB PRIMARY KEY, value BLOB, sum INTEGER)",
)
# The types are said because damage can change them.
_READ = "SELECT CAST(value AS BLOB), CAST(sum AS INTEGER) FROM item WHERE key = ?"
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_IOERR_SHORT_READ)
_WAIT = 60.0  # seconds for another process's write


def user_cache() -> Path:
    """Return the folder for what can be made again: ``zsbir`` under ``$XDG_CACHE_HOME``, or ``~/.cache``."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path("~/.cache").expanduser()) / "zsbir"


def digest(content: bytes) -> bytes:
    """Return 16 bytes that stand for a content of any length, for keys."""
    return hashlib.blake2b(content, digest_size=16).digest()


def current(name: str, file: str | Path) -> bytes | None:
    """Return a key for `name` that holds until `file` changes in size or time; None where there is no such file."""
    try:
        return digest(os.fsencode(f"{name} {stamp(file)}"))
    except OSError:
        return None


class Store:
    """Values by key, on a local disk; any number of processes and threads may read and write it at a time.

    Args:
        file: The store; it and its folder are made if need be.
        what: What it holds, for messages: ``"image cache"``.

    Raises:
        ZsbirError: Here or later, if it cannot be opened or written. A damaged file is removed with a warning.
    """

    def __init__(self, file: str | Path, what: str = "store") -> None:
        self.file = Path(file)
        self.what = what
        self._local = threading.local()
        with writing(what, file):
            self.file.parent.mkdir(parents=True, exist_ok=True)
        self.get(b"")

    def __getstate__(self) -> dict[str, Any]:
        return {"file": self.file, "what": self.what}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _local=threading.local())

    def get(self, key: bytes) -> bytes | None:
        """Return the value of `key`, or None where there is none or it is damaged."""
        row = self._run(lambda base: base.execute(_READ, (key,)).fetchone())
        return row[0] if row is not None and row[0] is not None and _sum(key, row[0]) == row[1] else None

    def put(self, items: Iterable[tuple[bytes, bytes]]) -> None:
        """Write values in one transaction; a key that is there gets the new one."""
        rows = [(key, value, _sum(key, value)) for key, value in items]

        def write(base: sqlite3.Connection) -> None:
            with base:
                base.executemany("INSERT OR REPLACE INTO item VALUES (?, ?, ?)", rows)

        self._run(write)

    def close(self) -> None:
        """Close this thread's connection; the next use opens another one."""
        held, self._local.held = getattr(self._local, "held", None), None
        if held is not None and held[0] == os.getpid():
            held[2].close()

    def _run(self, work: Callable[[sqlite3.Connection], R]) -> R:
        """Return what `work` does with this thread's connection; on a damaged file, with that of a new one."""
        for _ in range(2):
            try:
                return work(self._connection())
            except sqlite3.Error as error:
                code = getattr(error, "sqlite_errorcode", 0)
                if code not in _DAMAGED and code & 0xFF not in _DAMAGED:
                    raise self._unusable(f"{error}, code {code}") from None
                self._start_anew(error)
        raise self._unusable("it is damaged again and again")

    def _unusable(self, why: object) -> ZsbirError:
        return ZsbirError(f"the {self.what} {self.file} cannot be used ({why}): make room, or choose another folder")

    def _connection(self) -> sqlite3.Connection:
        # A connection must not cross a fork. The parent's is kept: closing it here would drop the parent's locks.
        held: tuple[int, int, sqlite3.Connection, object] | None = getattr(self._local, "held", None)
        if held is None or held[0] != os.getpid():
            if self.file.exists() and not os.access(self.file, os.W_OK):
                base = sqlite3.connect(f"{self.file.absolute().as_uri()}?immutable=1", uri=True)
            else:
                base = sqlite3.connect(self.file, timeout=_WAIT)
                for command in _SET_UP:
                    base.execute(command)
            held = self._local.held = (os.getpid(), self.file.stat().st_ino, base, held)
        return held[2]

    def _start_anew(self, error: sqlite3.Error) -> None:
        """Remove the file, unless another process has done so since it was opened here."""
        held = getattr(self._local, "held", None)
        opened = held[1] if held is not None and held[0] == os.getpid() else None
        self._local.held = None
        try:
            with FileLock(f"{self.file}.lock"):
                if opened is None or (self.file.exists() and self.file.stat().st_ino == opened):
                    warnings.warn(f"the {self.what} {self.file} is damaged ({error}) and starts anew", stacklevel=5)
                    for ending in ("", "-wal", "-shm"):
                        Path(f"{self.file}{ending}").unlink(missing_ok=True)
        except OSError as failure:
            raise self._unusable(failure) from None


def _sum(key: bytes, value: bytes) -> int:
    return zlib.crc32(value, zlib.crc32(key))
