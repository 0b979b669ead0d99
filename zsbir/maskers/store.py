"""Masks computed once per photo and kept on disk, so that training runs no masker after the first pass."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from tqdm import tqdm

from zsbir.errors import ZsbirError
from zsbir.maskers.base import Masker
from zsbir.registry import spec_of

Read = Callable[[str], npt.NDArray[np.uint8]]
ReadObject = Callable[[str], npt.NDArray[np.bool_] | None]
Skip = Callable[[str, ZsbirError], None]
DIGEST = 16  # bytes of a content key


@dataclass(frozen=True, eq=False)
class _Seen:
    """What a masker sees of one photo."""

    pixels: npt.NDArray[np.uint8]
    name: str
    object: npt.NDArray[np.bool_] | None

    def digest(self) -> bytes:
        hashed = hashlib.blake2b(np.ascontiguousarray(self.pixels).tobytes(), digest_size=DIGEST)
        hashed.update(f"{self.pixels.shape} {self.name}".encode())
        if self.object is not None:
            hashed.update(np.packbits(self.object).tobytes())
        return hashed.digest()


@dataclass(frozen=True)
class _Reading:
    """Reads photos; hands those that cannot be read to `skip`, or raises where there is none."""

    read: Read
    read_object: ReadObject | None
    skip: Skip | None

    def __call__(self, file: str, name: str) -> _Seen | None:
        try:
            return _Seen(self.read(file), name, None if self.read_object is None else self.read_object(file))
        except ZsbirError as error:
            if self.skip is None:
                raise
            self.skip(file, error)
            return None


class MaskStore:
    """Masks on disk, memory-mapped, keyed by the masker's spec and by each photo's content and class.

    A photo's mask is found by what the masker saw: the pixels, the class name and, for maskers that read it, the object
    mask. So a changed photo gets a new mask, and a moved or repeated one does not. Files with unchanged size and time
    are not read again.

    Args:
        masker: What computes masks; its spec (and the content of a weights file it names) is part of the key.
        grid: The encoder's patch grid (h, w).
        root: Folder of all stores; this one is the subfolder `folder`.
        preparation: What else decides the pixels, such as image size and how a photo becomes a square; JSON values.

    Raises:
        ZsbirError: If the masks change while the encoder trains, so that they cannot be stored.

    A store takes N bits a photo: 25 bytes for 196 patches. It is a callable from file name to (N,) bool, which is what
    ``Trainer(keep=...)`` takes.
    """

    def __init__(
        self, masker: Masker, grid: tuple[int, int], root: str | Path, preparation: Mapping[str, Any] | None = None
    ) -> None:
        if masker.depends_on_backbone:
            raise ZsbirError(
                f"the masks of {type(masker).__name__} change while the encoder trains, so they cannot be stored"
            )
        self.masker, self.grid = masker, grid
        self.patches = grid[0] * grid[1]
        self.row_bytes = -(-self.patches // 8)
        header = {"masker": _with_digests(spec_of(masker)), "grid": list(grid), "preparation": dict(preparation or {})}
        name = hashlib.blake2b(json.dumps(header, sort_keys=True).encode(), digest_size=6).hexdigest()
        self.folder = Path(root) / f"{header['masker']['name']}-{name}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / "store.json").write_text(json.dumps(header, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise ZsbirError(f"the mask store {self.folder} cannot be written: {error.strerror or error}") from error
        self._rows: dict[bytes, int] = {}
        self._files: dict[str, tuple[int, int, str, str]] = {}
        self._by_file: dict[str, int] = {}
        self._masks: npt.NDArray[np.uint8] | None = None
        self._open()

    def __len__(self) -> int:
        return len(self._rows)

    def __call__(self, file: str) -> npt.NDArray[np.bool_]:
        """Return (N,) bool, True = keep, of a photo that `precompute` has seen.

        Raises:
            ZsbirError: If it has not.
        """
        row = self._by_file.get(str(file))
        if row is None or self._masks is None:
            raise ZsbirError(f"the mask store {self.folder} has no mask of {file}: call precompute with its records")
        return np.unpackbits(self._masks[row], count=self.patches).astype(bool)

    def precompute(
        self,
        files: Sequence[str],
        class_names: Sequence[str],
        read: Read,
        read_object: ReadObject | None = None,
        *,
        device: torch.device | str = "cpu",
        batch_size: int = 64,
        skip: Skip | None = None,
        progress: bool = False,
    ) -> int:
        """Compute and store the masks that are missing, and make all of `files` known to look-ups.

        Args:
            files: Photos by their full names.
            class_names: The class name of each.
            read: Gives the prepared photo, (S, S, 3) uint8.
            read_object: Gives its object mask, (S, S) bool; for maskers with `needs_objects`.
            device: Where the masker runs.
            batch_size: Photos at a time.
            skip: Called with a file that cannot be read, which is then left out; None: the error is raised.
            progress: Show a bar.

        Returns:
            How many masks were computed; 0 when all were there. Processes that share a folder take turns.
        """
        with _locked(self.folder / "lock"):
            self._open(repair=True)
            reading = _Reading(read, read_object if self.masker.needs_objects else None, skip)
            items = list(zip(map(str, files), class_names, strict=True))
            bar = tqdm(items, desc="masks", unit="img", disable=not progress, leave=False)
            computed = self._fill(bar, reading, torch.device(device), batch_size)
            self._open()
        for file, name in zip(files, class_names, strict=True):
            known = self._files.get(str(file))
            if known is not None and known[2] == name:
                self._by_file[str(file)] = self._rows[bytes.fromhex(known[3])]
        return computed

    def _fill(self, items: Iterable[tuple[str, str]], reading: _Reading, device: torch.device, batch_size: int) -> int:
        waiting: dict[bytes, _Seen] = {}
        computed = 0
        for file, name in items:
            size, changed = _stamp(file)
            known = self._files.get(file)
            if known is not None and changed and known[:3] == (size, changed, name):
                continue
            seen = reading(file, name)
            if seen is None:
                continue
            digest = seen.digest()
            self._files[file] = (size, changed, name, digest.hex())
            if digest not in self._rows:
                waiting[digest] = seen
            if len(waiting) == batch_size:
                computed += self._compute(waiting, device)
        if waiting:
            computed += self._compute(waiting, device)
        _write(self.folder / "files.json", json.dumps(self._files))
        return computed

    def _compute(self, waiting: dict[bytes, _Seen], device: torch.device) -> int:
        pixels = torch.from_numpy(np.stack([item.pixels for item in waiting.values()]))
        images = pixels.to(device).permute(0, 3, 1, 2).float() / 255
        known = [item.object for item in waiting.values() if item.object is not None]
        objects = torch.from_numpy(np.stack(known)).to(device) if len(known) == len(waiting) else None
        names = [item.name for item in waiting.values()]
        with torch.no_grad():
            keep: Tensor = self.masker(images, names, self.grid, None, objects)
        packed = np.packbits(keep.cpu().numpy(), axis=1)
        # The masks first: a crash in between leaves masks without keys, which the next pass cuts off.
        _append(self.folder / "masks.bin", packed.tobytes())
        _append(self.folder / "keys.bin", b"".join(waiting))
        for digest in waiting:
            self._rows[digest] = len(self._rows)
        count = len(waiting)
        waiting.clear()
        return count

    def _open(self, repair: bool = False) -> None:
        """Read what is there; `repair` cuts off what a crash left half written, which needs the lock."""
        masks, keys, files = (self.folder / name for name in ("masks.bin", "keys.bin", "files.json"))
        if not keys.exists():
            return
        count = min(keys.stat().st_size // DIGEST, masks.stat().st_size // self.row_bytes)
        if repair:
            os.truncate(keys, count * DIGEST)
            os.truncate(masks, count * self.row_bytes)
        raw = keys.read_bytes()
        self._rows = {raw[i * DIGEST : (i + 1) * DIGEST]: i for i in range(count)}
        self._masks = np.memmap(masks, dtype=np.uint8, mode="r", shape=(count, self.row_bytes)) if count else None
        if files.exists():
            listed = json.loads(files.read_text(encoding="utf-8"))
            known = {k: (int(v[0]), int(v[1]), str(v[2]), str(v[3])) for k, v in listed.items()}
            self._files = {k: v for k, v in known.items() if bytes.fromhex(v[3]) in self._rows}


def _stamp(file: str) -> tuple[int, int]:
    """Return size and time of a plain file; (0, 0) for a photo that is no file of its own."""
    try:
        found = Path(file).stat()
    except OSError:
        return 0, 0
    return found.st_size, found.st_mtime_ns


def _with_digests(spec: Any) -> Any:
    """Return the spec with the content of each weights file it names, since a file may change under its name."""
    if not isinstance(spec, Mapping):
        return spec
    whole = {key: _with_digests(value) for key, value in spec.items()}
    weights = spec.get("weights")
    if isinstance(weights, str) and Path(weights).is_file():
        with open(weights, "rb") as file:
            whole["weights"] = hashlib.file_digest(file, "sha256").hexdigest()
    return whole


def _append(file: Path, content: bytes) -> None:
    try:
        with open(file, "ab") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
    except OSError as error:
        raise ZsbirError(f"the mask store {file.parent} cannot be written: {error.strerror or error}") from error


def _write(file: Path, text: str) -> None:
    part = file.with_name(file.name + ".incomplete")
    part.write_text(text, encoding="utf-8")
    part.replace(file)


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Hold `file` against other processes, where the system can (not on Windows)."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    with open(file, "w", encoding="utf-8") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
