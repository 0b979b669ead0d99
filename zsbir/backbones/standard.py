"""Features standardised by domain, which removes any constant difference between drawings and photos."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zsbir.arguments import Count, NonNegative, Ratio
from zsbir.types import Domain

_MEMORY = 100
"""Steps that the statistics of the features reach back."""


class Standard(nn.Module):
    """Standardise each dimension by its mean and deviation in training.

    Args:
        width: Dimensions.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mean: nn.Buffer = nn.Buffer(torch.zeros(width))
        self.square: nn.Buffer = nn.Buffer(torch.zeros(width))
        self.seen: nn.Buffer = nn.Buffer(torch.zeros(()))

    def forward(self, vector: Tensor) -> Tensor:
        """Return (B, D) vectors with mean 0 and deviation about 1; in training mode the statistics learn from them."""
        if self.training:
            with torch.no_grad():
                share = 1 / (self.seen + 1).clamp(max=_MEMORY)
                self.mean.lerp_(vector.mean(dim=0), share)
                self.square.lerp_(vector.square().mean(dim=0), share)
                self.seen.add_(1)
        return self.scaled(vector)

    def scaled(self, vectors: Tensor) -> Tensor:
        """Return (..., D) vectors by the mean and deviation so far."""
        deviation = (self.square - self.mean.square()).clamp(min=0).sqrt()
        # A tenth of the mean deviation is added, so that no small deviation is divided by.
        return (vectors - self.mean) / (deviation + 0.1 * deviation.mean() + 1e-12)


class SharedHead(nn.Module):
    """One linear layer for both domains, on features that are standardised by domain.

    Args:
        width: Width of the features, D.
        out: Width of the embedding.
        dropout: Share of the features hidden from the layer in a training step.
        keep: Weight, at least 0, of the standardised features beside the layer's output in the embedding: what the
            backbone knows of classes that training never names.
    """

    def __init__(self, width: int, out: Count = 512, dropout: Ratio = 0.7, keep: NonNegative = 0.0) -> None:
        super().__init__()
        self.standard = nn.ModuleDict({domain: Standard(width) for domain in ("sketch", "photo")})
        self.dropout, self.linear = nn.Dropout(dropout), nn.Linear(width, out)
        self.keep = keep

    def forward(self, vector: Tensor, domain: Domain) -> Tensor:
        """Return the layer's output (B, out) of features (B, D)."""
        out: Tensor = self.linear(self.dropout(self.standard[domain](vector.float())))
        return out

    def patches(self, tokens: Tensor, domain: Domain) -> Tensor:
        """Return (B, N, out) for patch features (B, N, D), by the statistics of the vectors and without dropout."""
        standard: Any = self.standard[domain]
        out: Tensor = self.linear(standard.scaled(tokens.float()))
        return out

    def embed(self, vector: Tensor, domain: Domain) -> Tensor:
        """Return the unit embedding, (B, out) or with `keep` (B, out + D)."""
        learned = F.normalize(self(vector, domain), dim=1)
        if not self.keep:
            return learned
        known = self.keep * F.normalize(self.standard[domain](vector.float()), dim=1)
        return F.normalize(torch.cat([learned, known], dim=1), dim=1)
