"""The outputs of a method's frozen layers, computed once a file and stored: heads then train in seconds."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from zsbir.backbones.base import Backbone
from zsbir.data.batches import to_unit
from zsbir.data.formats import split_record
from zsbir.data.loading import ImageSource
from zsbir.data.preprocess import Preprocess
from zsbir.errors import ZsbirError
from zsbir.store import Store, current, user_cache
from zsbir.types import Domain

_BATCH = 16  # the fastest on a CPU
_MOST_HELD = 2e9  # bytes in memory; the rest is read from the disk each time


class StoredFeatures:
    """The outputs of a method's frozen layers by file, in float16 on the disk and in memory.

    An output is found again by the frozen weights, the preparation of the image, and the file's name, size and time of
    change; so every later run on the same images can use it, whatever is trained on top.

    Args:
        trunk: The method's, at least partly frozen, see `zsbir.methods.embedding.Encoder.trunk`.
        preprocess: The method's.
        variant: What else the pixels of a file depend on, see `zsbir.data.base.Dataset.variant`.
        folder: Where the stores are; None: ``features`` in the user's cache folder.

    Raises:
        ZsbirError: If nothing is frozen, or the folder cannot be written.
    """

    def __init__(
        self, trunk: Backbone | None, preprocess: Preprocess, variant: str = "", folder: str | Path | None = None
    ) -> None:
        if trunk is None or not trunk.frozen:
            raise ZsbirError("nothing below the method's head is frozen, so nothing can be stored")
        self.preprocess, self.trunk = preprocess, trunk
        found = hashlib.blake2b(repr((self.preprocess, variant, self.trunk.spec)).encode(), digest_size=12)
        for name, tensor in self.trunk.frozen_state().items():
            found.update(name.encode())
            found.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        folder = user_cache() / "features" if folder is None else Path(folder)
        self.store = Store(folder / f"{found.hexdigest()}.sqlite", "feature store")
        self._held: dict[tuple[str, Domain], Tensor] = {}

    def takes(self, files: Sequence[str]) -> bool:
        """Tell whether the names are those of files, judged by the first: only a file's changes can be noticed."""
        return bool(files) and Path(split_record(files[0])[0]).is_file()

    def fill(
        self,
        source: ImageSource,
        files: Sequence[str],
        domain: Domain,
        device: torch.device | str = "cpu",
        progress: bool = False,
    ) -> None:
        """Compute what is missing. A file that cannot be read is left out; asking for it raises.

        Args:
            source: Gives the images.
            files: Full names.
            domain: What they are.
            device: Where the frozen layers run.
            progress: Show a bar.
        """
        missing = [file for file in dict.fromkeys(files) if self._find(file, domain) is None]
        named = "sketches" if domain == "sketch" else "photos"
        bar = tqdm(missing, desc=f"features of {named}", unit="img", disable=not progress, leave=False)
        ready: list[tuple[str, Tensor]] = []
        for file in bar:
            try:
                ready.append((file, source.tensor(file, domain)))
            except ZsbirError:
                continue
            if len(ready) == _BATCH:
                self._add(ready, domain, device)
                ready = []
        if ready:
            self._add(ready, domain, device)

    def __call__(self, file: str, domain: Domain) -> Tensor:
        """Return the stored output of a file, float16 on the CPU.

        Raises:
            ZsbirError: If `fill` could not read it.
        """
        output = self._find(file, domain)
        if output is None:
            raise ZsbirError(f"the {domain} {file} could not be read when the features were stored")
        return output

    @torch.no_grad()
    def _add(self, ready: list[tuple[str, Tensor]], domain: Domain, device: torch.device | str) -> None:
        was_training = self.trunk.training
        images = to_unit(torch.stack([pixels for _, pixels in ready]), device)
        outputs = self.trunk.eval().lower(self.preprocess.normalise(images)).half().cpu()
        self.trunk.train(was_training)
        rows = []
        for (file, _), output in zip(ready, outputs, strict=True):
            self._hold(file, domain, output.clone())
            shape = np.array(output.shape, dtype=np.int32)
            if (key := current(f"{domain} {file}", split_record(file)[0])) is not None:
                rows.append((key, bytes([output.ndim]) + shape.tobytes() + output.numpy().tobytes()))
        self.store.put(rows)

    def _find(self, file: str, domain: Domain) -> Tensor | None:
        held = self._held.get((file, domain))
        key = None if held is not None else current(f"{domain} {file}", split_record(file)[0])
        if key is None or (stored := self.store.get(key)) is None:
            return held
        shape = np.frombuffer(stored, np.int32, stored[0], 1)
        output = torch.from_numpy(np.frombuffer(stored, np.float16, offset=1 + shape.nbytes).reshape(shape).copy())
        return self._hold(file, domain, output)

    def _hold(self, file: str, domain: Domain, output: Tensor) -> Tensor:
        if len(self._held) * output.nbytes < _MOST_HELD:
            self._held[file, domain] = output
        return output
