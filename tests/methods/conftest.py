import pytest
import torch

from zsbir.types import Batch


@pytest.fixture
def triplets():
    """Return what makes a batch of random triplets, images in [0, 1]."""

    def make(size, rows=4):
        generator = torch.Generator().manual_seed(3)
        sketch, photo, negative = torch.rand(3, rows, 3, size, size, generator=generator)
        label = torch.arange(rows) % 3
        return Batch(sketch, photo, label, label, negative, (label + 1) % 3, ("bat", "cow", "door"))

    return make
