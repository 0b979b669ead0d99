"""Sizes, fingerprints and decodability of many records, in parallel and without a Python object per file."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import suppress
from multiprocessing import get_context
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from zsbir.data.formats import split_record
from zsbir.data.images import load_image
from zsbir.data.strokes import drawing_bytes, drawing_size
from zsbir.errors import ZsbirError
from zsbir.files import read_regular, stamp
from zsbir.types import Paths

R = TypeVar("R")
CHUNK = 500
MISSING = -1


def record_size(record: str) -> int:
    """Return a record's size in bytes (a QuickDraw drawing: its line's), or -1 where it cannot be found."""
    try:
        if split_record(record)[1] is not None:
            return drawing_size(record)
        return stamp(record)[0]
    except (OSError, ValueError, IndexError, ZsbirError):
        return MISSING


def record_bytes(record: str) -> bytes:
    """Return a record's bytes.

    Raises:
        ZsbirError: If it cannot be read.
    """
    try:
        if split_record(record)[1] is not None:
            return drawing_bytes(record)
        return read_regular(record)
    except (OSError, ValueError, IndexError) as error:
        raise ZsbirError(f"cannot read {record}: {error}") from None


def sizes(root: str, paths: Paths) -> npt.NDArray[np.int64]:
    """Return (n,) int64 sizes in bytes, -1 for missing files."""
    return np.fromiter((record_size(f"{root}/{path}") for path in paths), dtype=np.int64, count=len(paths))


def fingerprints(root: str, paths: Paths) -> npt.NDArray[np.uint64]:
    """Return (n,) uint64, the first 8 bytes of the BLAKE2b hash of each record; 0 for one that cannot be read.

    Equal fingerprints are confirmed with the whole content by who reports them.
    """
    prints = np.zeros(len(paths), dtype=np.uint64)
    for row, path in enumerate(paths):
        with suppress(ZsbirError):  # missing files are reported by their size
            content = record_bytes(f"{root}/{path}")
            prints[row] = int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little") or 1
    return prints


def undecodable(root: str, paths: Paths) -> list[str]:
    """Decode every record; return the messages of those that fail."""
    return failures(lambda path: load_image(f"{root}/{path}"), paths)


def failures(use: Callable[[str], object], paths: Paths) -> list[str]:
    """Return the messages of the records that `use` refuses."""
    problems = []
    for path in paths:
        try:
            use(path)
        except ZsbirError as error:
            problems.append(str(error))
    return problems


def in_chunks(work: Callable[[Paths], R], paths: Paths, workers: int, tick: Callable[[int], object]) -> Iterator[R]:
    """Yield ``work(chunk)`` for chunks of `paths`, in order.

    Args:
        work: What can be sent to another process; it is sent once to each.
        paths: All paths.
        workers: Processes; 1: none but this one.
        tick: Called with the number of paths of each finished chunk.
    """
    chunks = [paths[start : start + CHUNK] for start in range(0, len(paths), CHUNK)]
    if workers <= 1 or len(chunks) < 2:
        for chunk in chunks:
            yield work(chunk)
            tick(len(chunk))
        return
    # spawn: a fork of a process with torch's threads in it can hang.
    with ProcessPoolExecutor(workers, get_context("spawn"), _begin, (work,)) as pool:
        running: list[Future[R]] = [pool.submit(_work_on, chunk) for chunk in chunks]
        for future, chunk in zip(running, chunks, strict=True):
            yield future.result()
            tick(len(chunk))


_work: list[Callable[[Paths], Any]] = []


def _begin(work: Callable[[Paths], Any]) -> None:
    _work[:] = [work]


def _work_on(chunk: Paths) -> Any:
    return _work[0](chunk)
