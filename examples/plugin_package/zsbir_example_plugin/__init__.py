"""A masker and a dataset that zsbir finds by name once this package is installed: no import by the user."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from zsbir.data.base import Dataset
from zsbir.maskers.base import Masker, MaskRequest
from zsbir.types import Paths, Records, Split


class Checkerboard(Masker):
    """Keeps every second patch.

    Args:
        first: Whether the first patch is kept.
    """

    def __init__(self, first: bool = True) -> None:
        super().__init__()
        self.first = first

    def forward(self, request: MaskRequest) -> Tensor:
        """Return the same (B, N) board for every photo."""
        rows, columns = torch.meshgrid(*map(torch.arange, request.grid), indexing="ij")
        board = ((rows + columns) % 2 == 0) == self.first
        return board.flatten().expand(request.shape).to(request.images.device)


class Shapes(Dataset):
    """Outlines and filled shapes of polygons, drawn when opened; nothing is stored.

    Args:
        samples: Images of each class and domain.
    """

    def __init__(self, samples: int = 4) -> None:
        super().__init__(self._split(("triangle", "square", "hexagon"), samples),
                         self._split(("pentagon", "octagon"), samples))  # fmt: skip

    @staticmethod
    def _split(classes: tuple[str, ...], samples: int) -> Split:
        def records(domain: str) -> Records:
            names = [f"{domain}/{name}/{i}" for name in classes for i in range(samples)]
            return Records(Path(), Paths(names), np.arange(len(classes), dtype=np.int64).repeat(samples))

        return Split(records("sketch"), records("photo"), classes)

    def open(self, record: str) -> Image.Image:
        """Draw one image from its name."""
        domain, name, index = record.split("/")
        sides = {"triangle": 3, "square": 4, "pentagon": 5, "hexagon": 6, "octagon": 8}[name]
        image = Image.new("RGB", (64, 64), "white" if domain == "sketch" else (40 * int(index) % 255, 120, 90))
        fill = None if domain == "sketch" else "orange"
        ImageDraw.Draw(image).regular_polygon((32, 32, 20), sides, rotation=7 * int(index), fill=fill, outline="black")
        return image
