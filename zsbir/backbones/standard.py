"""Features standardised by their domain: what is always different between drawings and photos goes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_MEMORY = 100
"""Steps that the statistics of the features reach back."""


class Standard(nn.Module):
    """Standardise each dimension by the mean and deviation of what was seen in training.

    Args:
        width: Dimensions.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mean: nn.Buffer = nn.Buffer(torch.zeros(width))
        self.square: nn.Buffer = nn.Buffer(torch.zeros(width))
        self.seen: nn.Buffer = nn.Buffer(torch.zeros(()))

    def forward(self, vector: Tensor) -> Tensor:
        """Return (B, D) vectors with mean 0 and deviation about 1; in training mode they are taken in first."""
        if self.training:
            with torch.no_grad():
                share = 1 / (self.seen + 1).clamp(max=_MEMORY)
                self.mean.lerp_(vector.mean(dim=0), share)
                self.square.lerp_(vector.square().mean(dim=0), share)
                self.seen.add_(1)
        deviation = (self.square - self.mean.square()).clamp(min=0).sqrt()
        # A tenth of the mean deviation is added, so that no dimension blows up.
        return (vector - self.mean) / (deviation + 0.1 * deviation.mean() + 1e-12)
