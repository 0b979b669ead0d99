"""Keep decoded, resized images on the disk, so that later epochs decode nothing.

A cache folder has one `zsbir.store.Store` for each (size, preparation, drawing style). It holds, by a file's path, size
and time of change, the hash of its content, and by that hash the pixels. So equal files share their pixels, and a file
that was changed is read again.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from zsbir.arguments import Count, checked
from zsbir.data.base import Dataset
from zsbir.data.content import each, problem, record_bytes
from zsbir.data.formats import split_record
from zsbir.data.images import load_image
from zsbir.data.preprocess import Pixels, way
from zsbir.errors import ZsbirError
from zsbir.store import Store, current, digest
from zsbir.types import DOMAINS, Paths

VERSION = 3
"""Part of a store's name; raise it when decoding or preparing changes."""


@checked("image cache")
class ImageCache:
    """Prepared images by file name, made on first use.

    Any number of processes may read and write it at a time.

    Args:
        folder: Where caches lie, on a local disk; it must not lie in the data.
        size: Side of the squares, in pixels.
        how: How an image becomes a square: a name in `zsbir.data.preprocess.WAYS`.
        open: Decodes a record, such as a dataset's `open`.
        variant: What else the pixels depend on, such as a dataset's `variant` (its line width).

    Raises:
        ZsbirError: If the folder cannot be made or written, for an unknown way, or a size below 1.

    Attributes:
        made: How many images this object decoded.
    """

    def __init__(
        self,
        folder: str | Path,
        size: Count,
        how: str = "squash",
        open: Callable[[str], Image.Image] = load_image,
        variant: str = "",
    ) -> None:
        self.size, self.made = size, 0
        self._open, self._prepare = open, way(how)
        style = f"-{digest(variant.encode()).hex()[:8]}" if variant else ""
        self.store = Store(Path(folder) / f"{size}-{how}{style}-v{VERSION}.sqlite", "image cache")

    def get(self, record: str) -> Pixels:
        """Return the prepared image of a record (its full path), from the store or made and stored.

        Returns:
            (size, size, 3) uint8, read-only.

        Raises:
            ZsbirError: If the file cannot be read or decoded.
        """
        key = current(os.path.abspath(record), split_record(record)[0])  # noqa: PTH100 (called for every image)
        if key is None:
            raise ZsbirError(f"there is no image file {record}")
        content = self.store.get(key)
        planes = None if content is None else self.store.get(content)
        if planes is None:
            content = digest(record_bytes(record))
            planes = self.store.get(content)
            new = [(key, content)]
            if planes is None:
                # Channels first, as batches are: filling one from the store is then a plain copy.
                planes = self._prepare(self._open(record), self.size).transpose(2, 0, 1).tobytes()
                self.made += 1
                new = [(content, planes), *new]
            self.store.put(new)
        return np.frombuffer(planes, dtype=np.uint8).reshape(3, self.size, self.size).transpose(1, 2, 0)


def fill_cache(
    dataset: Dataset,
    folder: str | Path,
    size: int,
    sketch: str = "squash",
    photo: str = "squash",
    workers: int | None = None,
) -> tuple[int, int, list[str]]:
    """Decode every image that the cache lacks, or whose file changed.

    Args:
        dataset: Whose images.
        folder: The cache folder.
        size: Side of the squares in pixels.
        sketch: How a sketch becomes a square, see `zsbir.data.preprocess.WAYS`.
        photo: Likewise for photos.
        workers: Processes; None: one for each core.

    Returns:
        How many were decoded now, how many there are, and one message for each that cannot be.
    """
    made = total = 0
    problems: list[str] = []
    for domain, how in zip(DOMAINS, (sketch, photo), strict=True):
        held = [split.of(domain) for split in dataset.parts.values()]
        files = Paths(f"{records.root}/{path}" for records in held for path in records.paths)
        work = partial(_fill, ImageCache(folder, size, how, dataset.open, dataset.variant))
        for new, message in each(work, files, workers or os.cpu_count() or 1, f"{domain} images"):
            made += new
            problems += [message] if message else []
        total += len(files)
    return made, total, problems


def _fill(cache: ImageCache, record: str) -> tuple[int, str]:
    before = cache.made
    message = problem(cache.get, record)
    return cache.made - before, message
