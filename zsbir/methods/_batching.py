"""How many images are embedded at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")

_MOST = 1024


class BatchSize:
    """A number of images a step: fixed, or on CUDA found while working.

    There it starts at 64, and doubles after a whole batch that left more than half of the memory free, up to 1,024. A
    batch that does not fit is done in halves, and it stays at those.

    Args:
        size: Images; None: found on CUDA, and 32 elsewhere.
        device: Where they are embedded.
    """

    def __init__(self, size: int | None, device: torch.device) -> None:
        self._found = size is None and device.type == "cuda"
        self.size = size or (64 if self._found else 32)
        self._grows, self._device = self._found, device

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
                self.size, self._grows = max(1, len(piece) // 2), False
                continue
            if self._grows and len(piece) == self.size:
                used, total = used_memory(self._device)
                self._grows = 2 * used < total and self.size < _MOST
                self.size *= 2 if self._grows else 1
            yield start, result
            start += len(piece)


def used_memory(device: torch.device) -> tuple[int, int]:
    """Return the bytes of a GPU that were in use at the most, and those that it has."""
    return torch.cuda.max_memory_allocated(device), torch.cuda.get_device_properties(device).total_memory
