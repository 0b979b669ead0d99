"""Hash the content of a data set's files: read each file once, and remember its hash by size and time of change.

What is remembered lies in ``zsbir/hashes.sqlite`` under ``$XDG_CACHE_HOME`` or ``~/.cache``. A file whose size or time
of change (in nanoseconds) is another than last time is read again; one that was changed and then given back both by
hand is not noticed. Nothing is remembered of few files, or without a place to write.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from tqdm import tqdm

from zsbir.data.formats import split_record
from zsbir.errors import ZsbirError
from zsbir.files import open_regular
from zsbir.store import Store, current

WORTH_KEEPING = 1000
"""Fewer files are read again each time: that takes less than a second."""
_BYTES = 16  # of a file's BLAKE2b digest
_THREADS = 8


def user_cache() -> Path:
    """Return the folder for what can be made again: ``zsbir`` under ``$XDG_CACHE_HOME``, or ``~/.cache``."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path("~/.cache").expanduser()) / "zsbir"


def content_hash(root: Path, records: Iterable[str]) -> str:
    """Return the SHA-256 of the names and contents of files, whatever their order; 64 hexadecimal digits.

    Args:
        root: What the names are relative to; it does not enter the hash.
        records: File names; of ``file.ndjson#17`` the whole file counts. One that is no file, or cannot be read,
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
