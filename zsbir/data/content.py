"""Do something with each of many records, in parallel and without a Python object for each file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any, TypeVar

from tqdm import tqdm

from zsbir.data.formats import split_record
from zsbir.data.strokes import drawing_bytes, drawing_place
from zsbir.errors import ZsbirError
from zsbir.files import read_regular, stamp
from zsbir.store import digest
from zsbir.types import Paths

R = TypeVar("R")
CHUNK = 500
MISSING = -1


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
    """Return 64 bits of a record's hash; 0 for one that cannot be read. Equal ones are to be confirmed."""
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
