"""The content of a data set's files as one hash; each file is read once and remembered by size and time of change.

What is remembered lies in ``zsbir/hashes`` under ``$XDG_CACHE_HOME`` or ``~/.cache``, one file a data set. A file whose
size or time of change (in nanoseconds) is another than last time is read again; one that was changed and then given
back both by hand is not noticed. Nothing is remembered of few files, or without a place to write.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from zsbir.data.formats import split_record
from zsbir.files import open_regular, stamp
from zsbir.types import Paths

BYTES = 16
"""Length of a file's BLAKE2b digest."""
WORTH_KEEPING = 1000
"""Fewer files are read again each time: that takes less than a second."""
_THREADS = 8
_BLOCK = 1 << 20

Stats = npt.NDArray[np.int64]
Digests = npt.NDArray[np.uint8]


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
    digests = _digests(root, names)
    whole = hashlib.sha256()
    for name, digest in zip(names, digests, strict=True):
        whole.update(name.encode("utf-8", "surrogateescape") + b"\0" + digest.tobytes())
    return whole.hexdigest()


def _digests(root: Path, names: list[str]) -> Digests:
    """Return (n, BYTES) digests of the files, zeros for one that cannot be read."""
    key = hashlib.sha256(str(root.resolve()).encode("utf-8", "surrogateescape")).hexdigest()[:24]
    memory = user_cache() / "hashes" / f"{key}.npz"
    known_names, known_stats, digests_before = _remembered(memory)
    place = {name: row for row, name in enumerate(known_names)}
    rows = np.array([place.get(name, -1) for name in names], dtype=np.int64)
    stats = np.array([_stat(f"{root}/{name}") for name in names], dtype=np.int64).reshape(-1, 2)
    digests = np.zeros((len(names), BYTES), dtype=np.uint8)
    same = rows >= 0
    same[same] = (known_stats[rows[same]] == stats[same]).all(axis=1)
    digests[same] = digests_before[rows[same]]
    missing = np.flatnonzero(~same & (stats[:, 0] >= 0)).tolist()
    if missing:
        with ThreadPoolExecutor(_THREADS) as pool:
            # Reading and hashing let other threads run.
            found = pool.map(_digest, [f"{root}/{names[i]}" for i in missing], chunksize=64)
            bar = tqdm(found, "reading all files once", len(missing), unit=" files", delay=2, leave=False, disable=None)
            for i, digest in zip(missing, bar, strict=True):
                digests[i] = np.frombuffer(digest, dtype=np.uint8)
        if len(names) >= WORTH_KEEPING:
            _remember(memory, known_names, known_stats, digests_before, names, stats, digests)
    return digests


def _stat(file: str) -> tuple[int, int]:
    try:
        return stamp(file)
    except OSError:
        return -1, -1


def _digest(file: str) -> bytes:
    whole = hashlib.blake2b(digest_size=BYTES)
    try:
        with open_regular(file) as stream:
            while block := stream.read(_BLOCK):
                whole.update(block)
    except OSError:
        return bytes(BYTES)
    return whole.digest()


def _remembered(file: Path) -> tuple[Paths, Stats, Digests]:
    nothing = Paths(), np.zeros((0, 2), dtype=np.int64), np.zeros((0, BYTES), dtype=np.uint8)
    try:
        with np.load(file, allow_pickle=False) as arrays:
            names = Paths(arrays["names"].tobytes().decode("utf-8", "surrogateescape").split("\0"))
            stats, digests = arrays["stats"], arrays["digests"]
    except (OSError, ValueError, KeyError, EOFError):
        return nothing
    fits = stats.shape == (len(names), 2) and digests.shape == (len(names), BYTES)
    return (names, stats, digests) if fits else nothing


def _remember(
    file: Path,
    before: Paths,
    stats_before: Stats,
    digests_before: Digests,
    names: list[str],
    stats: Stats,
    digests: Digests,
) -> None:
    """Keep the digests of files that were read, and those of the data set's files that were not asked for now."""
    asked = set(names)
    others = [row for row, name in enumerate(before) if name not in asked]
    read = np.flatnonzero(digests.any(axis=1))
    every = [*before.take(others), *(names[i] for i in read.tolist())]
    text = "\0".join(every).encode("utf-8", "surrogateescape")
    with suppress(OSError):  # no place to write: the files are read again next time
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=file.parent, suffix=".npz", delete=False) as part:
            np.savez(
                part,
                allow_pickle=False,
                names=np.frombuffer(text, dtype=np.uint8),
                stats=np.concatenate([stats_before[others], stats[read]]),
                digests=np.concatenate([digests_before[others], digests[read]]),
            )
        Path(part.name).replace(file)
