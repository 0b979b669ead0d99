"""Decoded, resized images on the disk: later epochs cost no decoding.

A cache folder has one store for each (size, preparation, drawing style). A store is three files that only grow:
``pixels.u8``, squares of ``size * size * 3`` bytes, memory-mapped; ``slots.bin``, for each square the hash of the file
content it was made from and its checksum; ``files.bin``, which file (hash of its path, size, time of change) has which
square. So equal files share a square, a file that was changed is read again, a square that does not fit its checksum is
made again, and a writer that was stopped leaves nothing half valid. Nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from zsbir.data.content import record_bytes
from zsbir.data.formats import split_record
from zsbir.data.images import Preparation, load_image, prepare
from zsbir.errors import ZsbirError
from zsbir.files import locked, stamp

Pixels = npt.NDArray[np.uint8]
Key = tuple[int, int]

VERSION = 2
"""Enters the store's name; raise it when decoding or preparing changes."""

_SLOT = np.dtype([("content", "<u8", 2), ("crc", "<u4"), ("check", "<u4")])
_FILE = np.dtype([("path", "<u8", 2), ("size", "<i8"), ("changed", "<i8"), ("slot", "<u4"), ("check", "<u4")])


class ImageCache:
    """Prepared images by file name, made on first use.

    Any number of processes may read and write one store at a time.

    Args:
        folder: Where caches lie; it is made if need be, and must not lie in the data.
        size: Side of the squares, in pixels.
        how: The preparation, see `zsbir.data.images.prepare`.
        open: Decodes a record, such as a dataset's `open`.
        variant: What else the pixels depend on, such as a dataset's `variant` (its line width).

    Raises:
        ZsbirError: If the folder cannot be made.

    Attributes:
        made: How many images this object decoded.
    """

    def __init__(
        self,
        folder: str | Path,
        size: int,
        how: Preparation = "squash",
        open: Callable[[str], Image.Image] = load_image,
        variant: str = "",
    ) -> None:
        self.size = size
        self.how: Preparation = how
        self.made = 0
        self._open = open
        style = f"-{hashlib.blake2b(variant.encode(), digest_size=4).hexdigest()}" if variant else ""
        self.store = Path(folder) / f"{size}-{how}{style}-v{VERSION}"
        try:
            self.store.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ZsbirError(f"cannot make the image cache {self.store}: {error.strerror}; choose another") from None
        self._bytes = size * size * 3
        self._slots = _Table(self.store / "slots.bin", _SLOT, "content")
        self._files = _Table(self.store / "files.bin", _FILE, "path")
        self._map: Pixels | None = None
        self._sound = np.zeros(0, dtype=np.int8)

    def __getstate__(self) -> dict[str, Any]:
        # A memory map must not be copied into a worker: it opens its own.
        return {**self.__dict__, "_map": None}

    def get(self, record: str) -> Pixels:
        """Return the prepared image of a record (its full path), from the store or made and stored.

        Returns:
            (size, size, 3) uint8, read-only.

        Raises:
            ZsbirError: If the file cannot be read or decoded.
        """
        path, size, changed = self._identity(record)
        held = self._files.find(path)
        if held is not None and held["size"] == size and held["changed"] == changed:
            pixels = self._read(int(held["slot"]))
            if pixels is not None:
                return pixels
        return self._make(record, path, size, changed)

    def _identity(self, record: str) -> tuple[Key, int, int]:
        try:
            size, changed = stamp(split_record(record)[0])
        except OSError:
            raise ZsbirError(f"there is no image file {record}") from None
        return _key(os.path.abspath(record).encode("utf-8", "surrogateescape")), size, changed  # noqa: PTH100

    def _read(self, slot: int) -> Pixels | None:
        """Return a square, or None if it is not there or, looked at the first time by this object, is damaged."""
        if self._map is None or slot >= len(self._map):
            self._map = self._mapped()
            self._sound = np.concatenate([self._sound, np.zeros(max(0, len(self._map) - len(self._sound)), np.int8)])
        entry = self._slots.row(slot)
        if entry is None or slot >= len(self._map):
            return None
        if not self._sound[slot]:
            self._sound[slot] = 1 if zlib.crc32(self._map[slot].data) == entry["crc"] else -1
        return self._map[slot].transpose(1, 2, 0) if self._sound[slot] == 1 else None

    def _mapped(self) -> Pixels:
        shape = (3, self.size, self.size)
        path = self.store / "pixels.u8"
        count = path.stat().st_size // self._bytes if path.exists() else 0
        if not count:
            return np.zeros((0, *shape), dtype=np.uint8)
        return np.asarray(np.memmap(path, dtype=np.uint8, mode="r", shape=(count, *shape)))

    def _make(self, record: str, path: Key, size: int, changed: int) -> Pixels:
        content = _key(record_bytes(record))
        slot = self._slots.position(content)
        pixels = None if slot is None else self._read(slot)
        if pixels is None:
            pixels = prepare(self._open(record), self.size, self.how)
            self.made += 1
        with locked(self.store / "lock"):
            self._slots.refresh()
            self._files.refresh()
            slot = self._slots.position(content)
            if slot is None or self._read(slot) is None:
                slot = len(self._slots)
                # Channels first, as batches are: filling one from the store is then a plain copy.
                planes = pixels.transpose(2, 0, 1).tobytes()
                _write(self.store / "pixels.u8", planes, slot * self._bytes)
                self._slots.append(content=content, crc=zlib.crc32(planes))
            self._files.append(path=path, size=size, changed=changed, slot=slot)
        return pixels


class _Table:
    """Records of fixed width in a file that grows; found by a 128-bit key, the last of equal keys wins.

    Args:
        path: The file.
        dtype: Its records; the last field, `check`, is their checksum.
        key: The name of the key's field.
    """

    def __init__(self, path: Path, dtype: np.dtype[Any], key: str) -> None:
        self._path = path
        self._dtype = dtype
        self._key = key
        self._rows = np.zeros(0, dtype=dtype)
        self._order = np.zeros(0, dtype=np.int64)
        self._sorted = np.zeros(0, dtype=np.uint64)
        self._new: list[npt.NDArray[Any]] = []
        self._new_at: dict[Key, int] = {}
        self._rows = self._load(0)
        keys = self._rows[key][:, 0]
        # Stable: of equal keys the newest comes last.
        self._order = np.argsort(keys, kind="stable")
        self._sorted = keys[self._order]

    def __len__(self) -> int:
        return len(self._rows) + len(self._new)

    def _load(self, start: int) -> npt.NDArray[Any]:
        if not self._path.exists():
            return np.zeros(0, dtype=self._dtype)
        return np.fromfile(self._path, dtype=self._dtype, offset=start * self._dtype.itemsize)

    def refresh(self) -> None:
        """Take in what other processes appended."""
        if self._path.exists() and self._path.stat().st_size // self._dtype.itemsize > len(self):
            for row in self._load(len(self)):
                self._take(row)

    def _take(self, row: npt.NDArray[Any]) -> None:
        self._new_at[(int(row[self._key][0]), int(row[self._key][1]))] = len(self)
        self._new.append(row)

    def position(self, key: Key) -> int | None:
        """Return the number of the last sound record of `key`, or None."""
        at = self._new_at.get(key)
        if at is None:
            place = int(np.searchsorted(self._sorted, np.uint64(key[0]), side="right")) - 1
            at = int(self._order[place]) if place >= 0 else None
        return at if at is not None and self._matches(at, key) else None

    def _matches(self, at: int, key: Key) -> bool:
        row = self.row(at)
        return row is not None and (int(row[self._key][0]), int(row[self._key][1])) == key

    def find(self, key: Key) -> Any:
        """Return the last sound record of `key`, or None."""
        at = self.position(key)
        return None if at is None else self.row(at)

    def row(self, at: int) -> Any:
        """Return a record, or None if it is not there or damaged."""
        if not 0 <= at < len(self):
            return None
        row = self._rows[at] if at < len(self._rows) else self._new[at - len(self._rows)]
        return row if row["check"] == _checksum(row) else None

    def append(self, **values: Any) -> None:
        """Write a record at the end; the store must be locked."""
        row = np.zeros(1, dtype=self._dtype)
        for name, value in values.items():
            row[name] = value
        row["check"] = _checksum(row[0])
        _write(self._path, row.tobytes(), len(self) * self._dtype.itemsize)
        self._take(row[0])


def _checksum(row: Any) -> int:
    return zlib.crc32(row.tobytes()[:-4])


def _key(content: bytes) -> Key:
    digest = hashlib.blake2b(content, digest_size=16).digest()
    return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")


def _write(path: Path, content: bytes, offset: int) -> None:
    try:
        handle = os.open(path, os.O_CREAT | os.O_WRONLY | getattr(os, "O_BINARY", 0), 0o644)
        with os.fdopen(handle, "wb") as file:  # opened by its number, so that nothing is truncated
            file.seek(offset)
            file.write(content)
    except OSError as error:
        raise ZsbirError(f"cannot write the image cache {path}: {error.strerror}; give another folder") from None
