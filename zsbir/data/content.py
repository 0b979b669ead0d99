"""The content of a dataset's files: sizes, bytes, hashes, and work on each of very many.

`content_hash` reads each file once and remembers its hash by size and time of change (in nanoseconds), in
``zsbir/hashes.sqlite`` under ``$XDG_CACHE_HOME`` or ``~/.cache``. A changed file whose old size and time were restored
by hand goes unnoticed. For few files, or where it cannot write, it remembers nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from zsbir.data.formats import split_record
from zsbir.data.strokes import drawing_bytes, drawing_place
from zsbir.errors import ZsbirError
from zsbir.files import open_regular, read_regular, stamp
from zsbir.store import Store, current, digest, user_cache
from zsbir.types import Paths

R = TypeVar("R")
CHUNK = 500
MISSING = -1
WORTH_KEEPING = 1000
"""The hashes of fewer files are computed again each time: that takes less than a second."""
_BYTES = 16  # of a file's BLAKE2b digest
_THREADS = 8


def record_size(record: str) -> int:
    """Return a record's size in bytes (a QuickDraw drawing: its line's), or -1 where it cannot be found."""
    try:
        if split_record(record)[1] is None:
            return stamp(record)[0]
        _, start, end = drawing_place(record)
        return end - start
    except (OSError, ValueError, IndexError, ZsbirError):
        return MISSING


def record_bytes(record: str) -> bytes:
    """Return a record's bytes.

    Raises:
        ZsbirError: If it cannot be read.
    """
    try:
        return read_regular(record) if split_record(record)[1] is None else drawing_bytes(record)
    except (OSError, ValueError, IndexError) as error:
        raise ZsbirError(f"cannot read {record}: {error}") from None


def fingerprint(record: str) -> int:
    """Return 64 bits of a record's hash; 0 for one that cannot be read. Confirm equal ones by their bytes."""
    try:
        return int.from_bytes(digest(record_bytes(record))[:8]) or 1
    except ZsbirError:
        return 0


def problem(use: Callable[[str], object], record: str) -> str:
    """Return the message with which `use` refuses a record; empty if it does not."""
    try:
        use(record)
    except ZsbirError as error:
        return str(error)
    return ""


def each(work: Callable[[str], R], records: Paths, workers: int, what: str) -> Iterator[R]:
    """Yield ``work(record)`` for all records, in order, with a bar on a terminal.

    Args:
        work: What can be sent to another process; it is sent once to each.
        records: All records.
        workers: Processes; 1: none but this one.
        what: What the bar calls the work.
    """
    with tqdm(total=len(records), desc=what, unit=" files", disable=None, leave=False) as bar:
        if workers <= 1 or len(records) <= CHUNK:
            for record in records:
                yield work(record)
                bar.update()
            return
        chunks = [records[start : start + CHUNK] for start in range(0, len(records), CHUNK)]
        # spawn: a fork of a process with torch's threads in it can hang.
        with ProcessPoolExecutor(workers, get_context("spawn"), _begin, (work,)) as pool:
            for found in pool.map(_on_chunk, chunks):
                yield from found
                bar.update(len(found))


_work: list[Callable[[str], Any]] = []


def _begin(work: Callable[[str], Any]) -> None:
    _work[:] = [work]


def _on_chunk(chunk: Paths) -> list[Any]:
    return list(map(_work[0], chunk))


def content_hash(root: Path, records: Iterable[str]) -> str:
    """Return the SHA-256 of the names and contents of files, whatever their order; 64 hexadecimal digits.

    Args:
        root: What the names are relative to; it does not enter the hash.
        records: File names; ``file.ndjson#17`` stands for the whole file. A file that is missing or cannot be read
            enters with its name alone.
    """
    names = sorted({split_record(name)[0] for name in records})
    home = root.resolve()
    digests = _digests([f"{home}/{name}" for name in names])
    whole = hashlib.sha256()
    for name, content in zip(names, digests, strict=True):
        whole.update(name.encode("utf-8", "surrogateescape") + b"\0" + content)
    return whole.hexdigest()


def _digests(files: list[str]) -> list[bytes]:
    """Return the digests of the files, zeros for one that cannot be read."""
    store = None
    if len(files) >= WORTH_KEEPING:
        with suppress(ZsbirError):  # no place to write: the files are read again next time
            store = Store(user_cache() / "hashes.sqlite", "store of file hashes")
    keys = [current(file, file) if store else None for file in files]
    digests = [store.get(key) if store and key else None for key in keys]
    unread = [i for i, known in enumerate(digests) if known is None]
    with ThreadPoolExecutor(_THREADS) as pool:  # reading and hashing let other threads run
        found = pool.map(_digest, (files[i] for i in unread), chunksize=64)
        bar = tqdm(found, "reading all files once", len(unread), unit=" files", delay=2, leave=False, disable=None)
        for i, content in zip(unread, bar, strict=True):
            digests[i] = content
    if store:
        new = [(key, content) for key, content in ((keys[i], digests[i]) for i in unread) if key and content]
        with suppress(ZsbirError):
            store.put(new)
        store.close()
    return [known or bytes(_BYTES) for known in digests]


def _digest(file: str) -> bytes:
    """Return a file's digest; nothing for one that cannot be read."""
    try:
        with open_regular(file) as stream:
            return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=_BYTES)).digest()
    except OSError:
        return b""
