"""Iterative quantisation: binary codes from real vectors.

Gong and Lazebnik, "Iterative Quantization: A Procrustean Approach to Learning Binary Codes", CVPR 2011: project onto
the leading principal components, then turn them so that the signs lose as little as possible.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from zsbir.errors import ZsbirError


@dataclass(frozen=True, eq=False)
class ITQ:
    """A fitted quantiser.

    Attributes:
        mean: (D,) of the vectors it was fitted on.
        rotation: (D, bits) principal components, turned.
    """

    mean: Tensor
    rotation: Tensor

    def codes(self, vectors: Tensor) -> Tensor:
        """Return (n, bits) float32, +1 or -1, of (n, D) vectors; 0 becomes +1."""
        projected = (vectors - self.mean.to(vectors)) @ self.rotation.to(vectors)
        return torch.where(projected >= 0, 1.0, -1.0).to(torch.float32)


def fit_itq(vectors: Tensor, bits: int, iterations: int = 50, seed: int = 0) -> ITQ:
    """Fit ITQ.

    Args:
        vectors: (n, D) float, what the codes are learnt from.
        bits: Length of the codes, at most D and n.
        iterations: Alternations between codes and rotation, 50 as published.
        seed: Of the rotation at the start.

    Returns:
        The quantiser, in float64 on the device of `vectors`.

    Raises:
        ZsbirError: If there are fewer dimensions or vectors than bits.
    """
    count, dim = vectors.shape
    if not 1 <= bits <= min(count, dim):
        raise ZsbirError(
            f"{bits} bits: a code has at least 1, and needs as many dimensions and vectors; there are {dim} and {count}"
        )
    data = vectors.to(torch.float64)
    mean = data.mean(dim=0)
    centred = data - mean
    _, components = torch.linalg.eigh(centred.T @ centred / max(1, count - 1))
    principal = components[:, -bits:].flip(1)
    projected = centred @ principal
    start = torch.randn(bits, bits, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    rotation = torch.linalg.qr(start).Q.to(projected.device)
    for _ in range(iterations):
        codes = torch.where(projected @ rotation >= 0, 1.0, -1.0).to(torch.float64)
        # The rotation nearest to the codes (orthogonal Procrustes): projected @ rotation ~ codes.
        left, _, right = torch.linalg.svd(projected.T @ codes)
        rotation = left @ right
    return ITQ(mean, principal @ rotation)
