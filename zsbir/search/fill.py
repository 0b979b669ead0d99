"""Photos to vectors, many at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from zsbir.search.catalog import Entry
from zsbir.search.model import Embedder
from zsbir.search.stores.base import Vectors

Insert = Callable[[Sequence[Entry], Vectors, Sequence[tuple[str, str]]], None]

_EACH = 32
"""Batches between two writes: what a stopped run loses at most."""


def fill(
    entries: Sequence[Entry], embedder: Embedder, insert: Insert, batch_size: int, workers: int, progress: bool
) -> None:
    """Embed photos and hand them to `insert`, some batches at a time; unreadable ones are handed over as skipped.

    Args:
        entries: The photos.
        embedder: What embeds.
        insert: Takes entries, their (n, D) vectors, and skipped files with the reason.
        batch_size: Images a step.
        workers: Threads that decode.
        progress: Show a bar with the remaining time.
    """
    done: list[Entry] = []
    vectors: list[Vectors] = []
    skipped: list[tuple[str, str]] = []

    def write() -> None:
        insert(done, np.concatenate(vectors) if vectors else np.zeros((0, 1), np.float32), skipped)
        for held in (done, vectors, skipped):
            held.clear()

    stream = embedder.stream(
        [entry.path for entry in entries], "photo", batch_size=batch_size, workers=workers, progress=progress,
        skip=lambda row, reason: skipped.append((entries[row].path, reason)),
    )  # fmt: skip
    for rows, found in stream:
        done += [entries[row] for row in rows]
        vectors.append(found)
        if len(vectors) == _EACH:
            write()
    if done or skipped:
        write()
