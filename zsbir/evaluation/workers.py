"""Threads that share the rows of a chunk.

Ranks and metrics are many small operations. With torch's own threads each of them waits until the last thread is done,
which on a busy machine takes longer than the work; here each thread does all of it for its rows, alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Barrier
from typing import Any, TypeVar

import torch

T = TypeVar("T")


class RowWorkers:
    """Runs a function on parts of a chunk's rows.

    Args:
        pool: Its threads; None: the caller's own.
        count: How many.
    """

    def __init__(self, pool: ThreadPoolExecutor | None, count: int) -> None:
        self._pool = pool
        self._count = count

    def split(self, rows: int) -> list[slice]:
        """Return one slice of the rows for each thread."""
        step = max(1, -(-rows // self._count))
        return [slice(start, start + step) for start in range(0, rows, step)]

    def map(self, work: Callable[..., T], parts: Sequence[tuple[Any, ...]]) -> list[T]:
        """Return the results of ``work(*part)`` in order."""
        if self._pool is None:
            return [work(*part) for part in parts]
        return list(self._pool.map(lambda part: _without_gradients(work, part), parts))


@contextmanager
def row_workers(device: torch.device) -> Iterator[RowWorkers]:
    """Give as many threads as torch uses on the CPU, for the block; on a GPU, the caller's own."""
    count = torch.get_num_threads()
    if device.type != "cpu" or count == 1:
        yield RowWorkers(None, 1)
        return
    together = Barrier(count)
    with ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        # All start here and now: what they set is theirs in part, and in part (MKL) the process's, and is set back.
        list(pool.map(lambda _: together.wait(), range(count)))
        torch.set_num_threads(count)
        yield RowWorkers(pool, count)


def _without_gradients(work: Callable[..., T], part: tuple[Any, ...]) -> T:
    with torch.inference_mode():  # the mode is a thread's own
        return work(*part)
