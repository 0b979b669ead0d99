"""How many images are embedded at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

T = TypeVar("T")

_MOST = 1024
_known: WeakKeyDictionary[nn.Module, tuple[int, bool]] = WeakKeyDictionary()


class BatchSize:
    """A number of images a step: fixed, or on CUDA found while working.

    There it starts at 64, and doubles after a whole batch that left more than half of the memory free, up to 1,024. A
    batch that does not fit is done in halves, and it stays at those. What was found is kept for the method's next job.

    Args:
        size: Images; None: found on CUDA, and 32 elsewhere.
        device: Where they are embedded.
        method: What embeds them.
    """

    def __init__(self, size: int | None, device: torch.device, method: nn.Module) -> None:
        self._found = size is None and device.type == "cuda"
        self._device, self._method = device, method
        self.size, self._grows = _known.get(method, (64, True)) if self._found else (size or 32, False)

    def __call__(self) -> int:
        return self.size

    def pieces(self, call: Callable[[Tensor], T], images: Tensor) -> Iterator[tuple[int, T]]:
        """Yield where a piece of the (B, ...) images starts and what `call` gives of it: all, where memory suffices."""
        start = 0
        while start < len(images):
            piece = images[start : start + self.size] if self._found else images
            try:
                result = call(piece)
            except torch.OutOfMemoryError:
                if not self._found or len(piece) == 1:
                    raise
                self._keep(max(1, len(piece) // 2), False)
                continue
            if self._grows and len(piece) == self.size:
                used, total = used_memory(self._device)
                grows = 2 * used < total and self.size < _MOST
                self._keep(self.size * 2 if grows else self.size, grows)
            yield start, result
            start += len(piece)

    def _keep(self, size: int, grows: bool) -> None:
        self.size, self._grows = _known[self._method] = size, grows


def used_memory(device: torch.device) -> tuple[int, int]:
    """Return the bytes of a GPU that were in use at the most, and those that it has."""
    return torch.cuda.max_memory_allocated(device), torch.cuda.get_device_properties(device).total_memory
