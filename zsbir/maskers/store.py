"""Masks computed once a photo and kept on disk, so that training runs the masker in the first pass only."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from filelock import FileLock
from torch import Tensor
from tqdm import tqdm

from zsbir.errors import ZsbirError
from zsbir.maskers.base import Masker, MaskRequest
from zsbir.registry import spec_of
from zsbir.store import Store, current, digest

Read = Callable[[str], npt.NDArray[np.uint8]]
ReadObject = Callable[[str], npt.NDArray[np.bool_] | None]
Skip = Callable[[str, ZsbirError], None]
_Seen = tuple[npt.NDArray[np.uint8], str, npt.NDArray[np.bool_] | None]
"""What a masker sees of a photo: pixels (S, S, 3), class name and object mask (S, S)."""


class MaskStore:
    """Masks on disk, one store for each spec of a masker.

    A mask is found by what the masker saw: the pixels, the class name and, for maskers that read it, the object mask.
    So a changed photo gets a new mask, and a moved or repeated one does not. Files with unchanged size and time are not
    read again. A mask takes N bits: 25 bytes for 196 patches.

    It is a callable from file name to (N,) bool, which is what ``Trainer(keep=...)`` takes.

    Args:
        masker: What computes masks; its spec (and the content of a weights file it names) is part of the key.
        grid: The encoder's patch grid (h, w).
        root: Folder of all stores; this one is the file `file` in it.
        preparation: What else the pixels depend on, such as image size and how a photo becomes a square; JSON values.

    Raises:
        ZsbirError: If the masks change while the encoder trains.
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
        made_by = {"masker": _with_digests(spec_of(masker)), "grid": list(grid), "preparation": dict(preparation or {})}
        key = hashlib.blake2b(json.dumps(made_by, sort_keys=True).encode(), digest_size=6).hexdigest()
        self.file = Path(root) / f"{made_by['masker']['name']}-{key}.sqlite"
        self._store = Store(self.file, "mask store")
        self._by_file: dict[str, bytes] = {}

    def __call__(self, file: str) -> npt.NDArray[np.bool_]:
        """Return (N,) bool, True = keep, of a photo that `precompute` has seen.

        Raises:
            ZsbirError: If it has not.
        """
        digest = self._by_file.get(str(file))
        bits = None if digest is None else self._store.get(digest)
        if bits is None:
            raise ZsbirError(f"the mask store {self.file} has no mask of {file}: call precompute with its records")
        return np.unpackbits(np.frombuffer(bits, dtype=np.uint8), count=self.patches).astype(bool)

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
        """Compute and store the masks that are missing; after that, `files` can be looked up.

        Args:
            files: Photos by their full names.
            class_names: The class name of each.
            read: Gives the prepared photo, (S, S, 3) uint8.
            read_object: Gives its object mask, (S, S) bool; for maskers with `needs_objects`.
            device: Where the masker runs.
            batch_size: Photos at a time.
            skip: Called with a file that cannot be read and the error; the file is left out. None: raise the error.
            progress: Show a bar.

        Returns:
            How many masks were computed; 0 when all were there. Processes that share a store take turns.
        """
        waiting: dict[bytes, _Seen] = {}
        notes: list[tuple[bytes, bytes]] = []
        computed = 0
        items = list(zip(map(str, files), class_names, strict=True))
        with FileLock(f"{self.file}.turn"):
            for file, name in tqdm(items, desc="masks", unit="img", disable=not progress, leave=False):
                key = current(f"{file}\0{name}", file)
                content = None if key is None else self._store.get(key)
                if content is None or self._store.get(content) is None:
                    try:
                        shape = read_object(file) if read_object and self.masker.needs_objects else None
                        pixels = read(file)
                    except ZsbirError as error:
                        if skip is None:
                            raise
                        skip(file, error)
                        continue
                    seen = pixels.tobytes() + f"{pixels.shape} {name}".encode()
                    content = digest(seen + (b"" if shape is None else np.packbits(shape).tobytes()))
                    notes += [] if key is None else [(key, content)]
                    if self._store.get(content) is None:
                        waiting[content] = pixels, name, shape
                self._by_file[file] = content
                if len(waiting) == batch_size:
                    computed += self._compute(waiting, device)
            computed += self._compute(waiting, device)
            self._store.put(notes)  # last: a file is known when its mask is there
        return computed

    def _compute(self, waiting: dict[bytes, _Seen], device: torch.device | str) -> int:
        if not waiting:
            return 0
        pixels, names, shapes = zip(*waiting.values(), strict=True)
        images = torch.from_numpy(np.stack(pixels)).to(device).permute(0, 3, 1, 2).float() / 255
        known = [shape for shape in shapes if shape is not None]
        objects = torch.from_numpy(np.stack(known)).to(device) if len(known) == len(waiting) else None
        with torch.no_grad():
            keep: Tensor = self.masker(MaskRequest(images, names, self.grid, objects=objects))
        packed = np.packbits(keep.cpu().numpy(), axis=1)
        self._store.put((digest, row.tobytes()) for digest, row in zip(waiting, packed, strict=True))
        count = len(waiting)
        waiting.clear()
        return count


def _with_digests(spec: Any) -> Any:
    """Return the spec with a digest of each weights file in the place of its name, since its content may change."""
    if not isinstance(spec, Mapping):
        return spec
    whole = {key: _with_digests(value) for key, value in spec.items()}
    weights = spec.get("weights")
    if isinstance(weights, str) and Path(weights).is_file():
        with open(weights, "rb") as file:
            whole["weights"] = hashlib.file_digest(file, "sha256").hexdigest()
    return whole
