"""The content of a data set's files as one hash; each file is read once and remembered by size and time of change.

What is remembered lies in ``zsbir/hashes.sqlite`` under ``$XDG_CACHE_HOME`` or ``~/.cache``. A file whose size or time
of change (in nanoseconds) is another than last time is read again; one that was changed and then given back both by
hand is not noticed. Nothing is remembered of few files, or without a place to write.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from tqdm import tqdm

from zsbir.data.formats import split_record
from zsbir.errors import ZsbirError
from zsbir.files import open_regular, stamp
from zsbir.store import Store

WORTH_KEEPING = 1000
"""Fewer files are read again each time: that takes less than a second."""
_BYTES = 16  # of a file's BLAKE2b digest
_STAMP = struct.Struct("<qq")
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
    digests = _digests(str(root.resolve()), names)
    whole = hashlib.sha256()
    for name, digest in zip(names, digests, strict=True):
        whole.update(name.encode("utf-8", "surrogateescape") + b"\0" + digest)
    return whole.hexdigest()


def _digests(root: str, names: list[str]) -> list[bytes]:
    """Return the digests of the files, zeros for one that cannot be read."""
    store = None
    if len(names) >= WORTH_KEEPING:
        with suppress(ZsbirError):  # no place to write: the files are read again next time
            store = Store(user_cache() / "hashes.sqlite", "store of file hashes")
    digests = [bytes(_BYTES)] * len(names)
    stamps: dict[int, bytes] = {}
    for i, name in enumerate(names):
        file = f"{root}/{name}"
        with suppress(OSError):  # a missing file keeps its zeros
            now = _STAMP.pack(*stamp(file))
            known = store.get(os.fsencode(file)) if store else None
            if known is not None and known.startswith(now):
                digests[i] = known[_STAMP.size :]
            else:
                stamps[i] = now
    if stamps:
        with ThreadPoolExecutor(_THREADS) as pool:  # reading and hashing let other threads run
            found = pool.map(_digest, (f"{root}/{names[i]}" for i in stamps), chunksize=64)
            bar = tqdm(found, "reading all files once", len(stamps), unit=" files", delay=2, leave=False, disable=None)
            for i, digest in zip(stamps, bar, strict=True):
                digests[i] = digest
        if store:
            with suppress(ZsbirError):
                read = ((i, now) for i, now in stamps.items() if any(digests[i]))
                store.put((os.fsencode(f"{root}/{names[i]}"), now + digests[i]) for i, now in read)
    if store:
        store.close()
    return digests


def _digest(file: str) -> bytes:
    try:
        with open_regular(file) as stream:
            return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=_BYTES)).digest()
    except OSError:
        return bytes(_BYTES)
