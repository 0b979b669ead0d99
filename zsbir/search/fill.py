"""Photos to vectors, many at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from zsbir.data.images import load_image
from zsbir.errors import ZsbirError
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
        workers: Threads that decode (decoders let other threads run).
        progress: Show a bar with the remaining time.
    """
    if batch_size < 1 or workers < 1:
        raise ZsbirError(f"batch_size={batch_size} and workers={workers} must be at least 1")

    def read(entry: Entry) -> npt.NDArray[np.uint8] | str:
        try:
            return embedder.pixels(load_image(entry.path), "photo")
        except (ZsbirError, MemoryError) as error:
            return str(error) or "it does not fit into memory"

    bar = tqdm(total=len(entries), desc="indexing", unit="photo", disable=not (progress and entries))
    chunk = batch_size * _EACH
    with bar, ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(entries), chunk):
            some = entries[start : start + chunk]
            done: list[Entry] = []
            vectors: list[Vectors] = []
            skipped: list[tuple[str, str]] = []
            for at in range(0, len(some), batch_size):
                batch = some[at : at + batch_size]
                read_in = list(zip(batch, pool.map(read, batch), strict=True))
                skipped += [(entry.path, what) for entry, what in read_in if isinstance(what, str)]
                good = [(entry, what) for entry, what in read_in if not isinstance(what, str)]
                if good:
                    vectors.append(embedder.embed([pixels for _, pixels in good], "photo"))
                    done += [entry for entry, _ in good]
                bar.update(len(batch))
            insert(done, np.concatenate(vectors) if vectors else np.zeros((0, 1), np.float32), skipped)
