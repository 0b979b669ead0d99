"""Filling an image cache with a whole data set, in parallel."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from zsbir.data.base import Dataset
from zsbir.data.cache import ImageCache
from zsbir.errors import ZsbirError
from zsbir.types import Domain

CHUNK = 200
_Chunk = tuple[str, Domain, int]


@dataclass
class _Task:
    dataset: Dataset
    caches: dict[Domain, ImageCache]

    def fill(self, part: str, domain: Domain, start: int) -> tuple[int, list[str]]:
        """Return how many images of one chunk were decoded, and what went wrong."""
        records = self.dataset.parts[part].of(domain)
        images, problems = self.caches[domain], []
        before = images.made
        for row in range(start, min(start + CHUNK, len(records))):
            try:
                images.get(f"{records.root}/{records.paths[row]}")
            except ZsbirError as error:
                problems.append(str(error))
        return images.made - before, problems


_task: list[_Task] = []


def _begin(task: _Task) -> None:
    _task[:] = [task]


def _fill(part: str, domain: Domain, start: int) -> tuple[int, list[str]]:
    return _task[0].fill(part, domain, start)


def fill_cache(
    dataset: Dataset,
    folder: str | Path,
    size: int,
    sketch: str = "squash",
    photo: str = "squash",
    workers: int | None = None,
    tick: Callable[[int, int], object] = lambda done, total: None,
) -> tuple[int, int, list[str]]:
    """Decode every image of a data set that the cache lacks, or has of an older file.

    Args:
        dataset: Whose images.
        folder: The cache folder.
        size: Side of the squares in pixels.
        sketch: How a sketch becomes a square, see `zsbir.data.preprocess.WAYS`.
        photo: Likewise for photos.
        workers: Processes; None: one for each core.
        tick: Called with the number of images just done, and of all.

    Returns:
        How many were decoded now, how many there are, and one message for each that cannot be.
    """
    caches: dict[Domain, ImageCache] = {
        "sketch": ImageCache(folder, size, sketch, dataset.open, dataset.variant),
        "photo": ImageCache(folder, size, photo, dataset.open, dataset.variant),
    }
    task = _Task(dataset, caches)
    domains: tuple[Domain, ...] = ("sketch", "photo")
    counts = {(part, d): len(split.of(d)) for part, split in dataset.parts.items() for d in domains}
    chunks = [(part, d, start) for (part, d), count in counts.items() for start in range(0, count, CHUNK)]
    total, made = sum(counts.values()), 0
    problems: list[str] = []
    workers = workers or os.cpu_count() or 1
    for (part, d, start), (new, found) in _results(task, chunks, workers):
        made += new
        problems += found
        tick(min(CHUNK, counts[part, d] - start), total)
    return made, total, problems


def _results(task: _Task, chunks: list[_Chunk], workers: int) -> Iterator[tuple[_Chunk, tuple[int, list[str]]]]:
    if workers == 1 or len(chunks) == 1:
        yield from ((chunk, task.fill(*chunk)) for chunk in chunks)
        return
    with ProcessPoolExecutor(workers, get_context("spawn"), _begin, (task,)) as pool:
        running = [(chunk, pool.submit(_fill, *chunk)) for chunk in chunks]
        for chunk, future in running:
            yield chunk, future.result()
