"""Decoded, resized images on the disk: later epochs cost no decoding.

A cache folder has one `zsbir.store.Store` for each (size, preparation, drawing style). It holds, by a file's path, its
size, time of change and the hash of its content, and by that hash the pixels. So equal files share their pixels, and a
file that was changed is read again.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from zsbir.data.content import record_bytes
from zsbir.data.formats import split_record
from zsbir.data.images import load_image
from zsbir.data.preprocess import prepare
from zsbir.errors import ZsbirError
from zsbir.files import stamp
from zsbir.store import Store

Pixels = npt.NDArray[np.uint8]

VERSION = 3
"""Part of a store's name; raise it when decoding or preparing changes."""

_STAMP = struct.Struct("<qq")


class ImageCache:
    """Prepared images by file name, made on first use.

    Any number of processes may read and write it at a time.

    Args:
        folder: Where caches lie, on a local disk; it must not lie in the data.
        size: Side of the squares, in pixels.
        how: The preparation, see `zsbir.data.images.prepare`.
        open: Decodes a record, such as a dataset's `open`.
        variant: What else the pixels depend on, such as a dataset's `variant` (its line width).

    Raises:
        ZsbirError: If the folder cannot be made or written.

    Attributes:
        made: How many images this object decoded.
    """

    def __init__(
        self,
        folder: str | Path,
        size: int,
        how: str = "squash",
        open: Callable[[str], Image.Image] = load_image,
        variant: str = "",
    ) -> None:
        self.size = size
        self.how = how
        self.made = 0
        self._open = open
        style = f"-{_digest(variant.encode()).hex()[:8]}" if variant else ""
        self.store = Store(Path(folder) / f"{size}-{how}{style}-v{VERSION}.sqlite", "image cache")

    def get(self, record: str) -> Pixels:
        """Return the prepared image of a record (its full path), from the store or made and stored.

        Returns:
            (size, size, 3) uint8, read-only.

        Raises:
            ZsbirError: If the file cannot be read or decoded.
        """
        try:
            now = _STAMP.pack(*stamp(split_record(record)[0]))
        except OSError:
            raise ZsbirError(f"there is no image file {record}") from None
        key = _digest(os.fsencode(os.path.abspath(record)))  # noqa: PTH100 (called for every image of every epoch)
        known = self.store.get(key)
        if known is not None and known.startswith(now):
            pixels = self.store.get(known[_STAMP.size :])
            if pixels is not None:
                return self._square(pixels)
        return self._make(record, key, now)

    def _make(self, record: str, key: bytes, now: bytes) -> Pixels:
        content = _digest(record_bytes(record))
        planes = self.store.get(content)
        if planes is None:
            # Channels first, as batches are: filling one from the store is then a plain copy.
            planes = prepare(self._open(record), self.size, self.how).transpose(2, 0, 1).tobytes()
            self.made += 1
            self.store.put([(content, planes), (key, now + content)])
        else:
            self.store.put([(key, now + content)])
        return self._square(planes)

    def _square(self, planes: bytes) -> Pixels:
        return np.frombuffer(planes, dtype=np.uint8).reshape(3, self.size, self.size).transpose(1, 2, 0)


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()
