"""Filling an image cache with a whole data set, in parallel."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from zsbir.data.base import Dataset
from zsbir.data.cache import ImageCache
from zsbir.data.content import failures, in_chunks
from zsbir.types import Domain, Paths


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
    ways: dict[Domain, str] = {"sketch": sketch, "photo": photo}
    files = {domain: _files(dataset, domain) for domain in ways}
    total, made = sum(map(len, files.values())), 0
    problems: list[str] = []
    for domain, how in ways.items():
        cache = ImageCache(folder, size, how, dataset.open, dataset.variant)
        work = partial(_fill, cache)
        for new, found in in_chunks(work, files[domain], workers or os.cpu_count() or 1, lambda n: tick(n, total)):
            made += new
            problems += found
    return made, total, problems


def _files(dataset: Dataset, domain: Domain) -> Paths:
    held = [split.of(domain) for split in dataset.parts.values()]
    return Paths(f"{records.root}/{path}" for records in held for path in records.paths)


def _fill(cache: ImageCache, files: Paths) -> tuple[int, list[str]]:
    before = cache.made
    problems = failures(cache.get, files)
    return cache.made - before, problems
