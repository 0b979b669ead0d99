"""Read images ahead of the model, in threads; JPEG files may be decoded on its GPU."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from zsbir.data.base import Dataset
from zsbir.data.images import decode_image
from zsbir.data.jpeg import Encoded, encoded, makes_square, squares
from zsbir.data.loading import ImageSource, planes
from zsbir.data.preprocess import as_image
from zsbir.errors import ZsbirError
from zsbir.files import read_regular
from zsbir.types import Domain

T = TypeVar("T")
S = TypeVar("S")

_AHEAD = 2  # batches that are decoded while one is embedded


class Reader:
    """Prepares images, each of which may be a path, the bytes of an image file, or an image in memory.

    Args:
        source: Gives the images of paths, and the preparation of all.
        domain: What they are.
        device: Where JPEG files are decoded; None: by the CPU.

    Raises:
        ZsbirError: If a device decodes and this preparation, cache or dataset needs the CPU.
    """

    def __init__(self, source: ImageSource, domain: Domain, device: torch.device | None = None) -> None:
        self._source, self._domain, self._device = source, domain, device
        how = source.preprocess.how(domain)
        if device is None:
            return
        if not makes_square(how):
            raise ZsbirError(f"a GPU cannot prepare a {domain} by {how!r}: leave out decode='device'")
        if source.caches or source.features is not None:
            raise ZsbirError("a cache of images leaves a GPU nothing to decode: leave out decode='device' or the cache")
        if source.dataset is not None and type(source.dataset).open is not Dataset.open:
            raise ZsbirError(f"{type(source.dataset).__name__} opens its files itself: leave out decode='device'")

    def read(self, item: Any) -> tuple[Any, Tensor | Encoded | str]:
        """Return an item and its (3, S, S) uint8 image, the JPEG file to decode, or why it cannot be read."""
        if self._device is not None and isinstance(item, (str, Path, bytes)):
            with suppress(OSError):  # the CPU's reader says it better
                if found := encoded(item if isinstance(item, bytes) else read_regular(item)):
                    return item, found
        return item, self._prepared(item)

    def finish(self, batch: list[tuple[Any, Tensor | Encoded | str]]) -> list[Tensor | str]:
        """Decode what is left to the device."""
        files = [held for _, held in batch if isinstance(held, Encoded)]
        if not files or self._device is None:
            return [held for _, held in batch if not isinstance(held, Encoded)]
        prepare = self._source.preprocess
        try:
            made = iter(squares(files, prepare.size, prepare.how(self._domain), self._device))
        except RuntimeError:  # one of them is damaged, or there is no memory: the CPU finds out which
            return [self._prepared(item) if isinstance(held, Encoded) else held for item, held in batch]
        return [next(made) if isinstance(held, Encoded) else held for _, held in batch]

    def _prepared(self, item: Any) -> Tensor | str:
        try:
            if isinstance(item, (str, Path)):
                return self._source.tensor(str(item), self._domain)
            image = decode_image(item) if isinstance(item, bytes) else as_image(item)
            return planes(self._source.preprocess.pixels(image, self._domain))
        except (ZsbirError, MemoryError) as error:
            return str(error) or f"{item} does not fit into memory"


def read_ahead(
    read: Callable[[T], S], items: Iterable[T], batch_size: Callable[[], int], workers: int
) -> Iterator[tuple[int, list[S]]]:
    """Yield the start of each batch and what `read` gives of its items; threads read ahead."""

    def cut() -> Iterator[tuple[int, list[T]]]:
        start, left = 0, iter(items)
        while some := list(islice(left, batch_size())):
            yield start, some
            start += len(some)

    if not workers:
        for start, some in cut():
            yield start, [read(item) for item in some]
        return
    pool = ThreadPoolExecutor(workers)
    waiting: deque[tuple[int, Iterator[S]]] = deque()
    try:
        for start, some in cut():
            waiting.append((start, pool.map(read, some)))
            if len(waiting) > _AHEAD:
                at, results = waiting.popleft()
                yield at, list(results)
        for start, results in waiting:
            yield start, list(results)
    finally:
        pool.shutdown(cancel_futures=True)


def stacked(images: list[Tensor], device: torch.device) -> Tensor:
    """Return images as one tensor: on the device if one of them is there, else in memory it copies fast from."""
    if device.type != "cuda":
        return torch.stack(images)
    if any(image.is_cuda for image in images):
        return torch.stack([image.to(device, non_blocking=True) for image in images])
    return torch.stack(images).pin_memory()
