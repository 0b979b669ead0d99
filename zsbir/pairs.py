"""Modules that score a sketch and a photo together, from their tokens."""

from __future__ import annotations

import copy
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zsbir.errors import ZsbirError


def sequence(vector: Tensor, tokens: Tensor) -> Tensor:
    """Return what the decoder reads of (B, N, D) patch tokens: before them the vector, where it is (B, D) too.

    For a ViT the vector is the class token.
    """
    return torch.cat([vector.unsqueeze(1), tokens], dim=1) if vector.shape[1] == tokens.shape[2] else tokens


class InteractionDecoder(nn.Module):
    """Says whether a sketch and a photo show the same class, from their tokens.

    Transformer decoder layers, which start as copies of one, with the sketch's tokens as queries and the photo's as
    memory, a linear layer to two logits per token, and the mean over tokens.

    Args:
        dim: Width D of the tokens.
        layers: Number of decoder layers.
        heads: Attention heads; must divide `dim`.
        hidden: Width of the feed-forward part.
        dropout: In training, PyTorch's default.
        over: What attention is over: ``"tokens"``, or ``"batch"``: PuXIM's release runs layers that expect (N, B, D)
            on (B, N, D), so that each token sees the same token of the batch's other images.
    """

    def __init__(
        self,
        dim: int,
        layers: int = 4,
        heads: int = 4,
        hidden: int = 1024,
        dropout: float = 0.1,
        over: Literal["tokens", "batch"] = "tokens",
    ) -> None:
        super().__init__()
        if dim % heads:
            raise ZsbirError(f"the interaction decoder's {heads} heads do not divide the token width {dim}")
        first = nn.TransformerDecoderLayer(dim, heads, hidden, dropout, batch_first=over == "tokens")
        self.layers = nn.ModuleList(copy.deepcopy(first) for _ in range(layers))
        self.classify = nn.Linear(dim, 2)

    def forward(self, sketch: Tensor, photo: Tensor) -> Tensor:
        """Return (B, 2) logits (0: another class, 1: the same) of (B, N, D) sketch and (B, M, D) photo tokens."""
        x = sketch
        for layer in self.layers:
            x = layer(x, photo)
        logits: Tensor = self.classify(x)
        return logits.mean(dim=1)

    def same(self, sketch: Tensor, photo: Tensor) -> Tensor:
        """Return the probability (B,) that sketch and photo show the same class; arguments as for `forward`."""
        logits: Tensor = self(sketch, photo)
        return logits.float().softmax(dim=1)[:, 1]


class _Norm(nn.Module):
    """Layer norm with the unbiased deviation, ``a · (x − mean) / (std + ε) + b``, as ZSE's release has it."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.ones(dim)), nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., dim)."""
        scaled: Tensor = self.a * (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + 1e-6) + self.b
        return scaled


class CrossLayer(nn.Module):
    """A post-norm transformer layer in which an image's own tokens are query, value and residual, the other's the key.

    Args:
        dim: Width of the tokens.
        heads: Attention heads; must divide `dim`.
        hidden: Width of the feed-forward part.
        dropout: In training.
    """

    def __init__(self, dim: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(dim, dim) for _ in range(4))
        self.feed = nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, dim))
        self.norms = nn.ModuleList([_Norm(dim), _Norm(dim)])
        self.dropout = nn.Dropout(dropout)

    def forward(self, own: Tensor, other: Tensor) -> Tensor:
        """Return (B, N, dim) of the image's (B, N, dim) and the other's (B, N, dim) tokens."""
        q, k, v = (
            linear(x).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for linear, x in ((self.query, own), (self.key, other), (self.value, own))
        )
        rate = self.dropout.p if self.training else 0.0
        seen = F.scaled_dot_product_attention(q, k, v, dropout_p=rate).transpose(1, 2).flatten(2)
        own = self.norms[0](own + self.dropout(self.out(seen)))
        mixed: Tensor = self.norms[1](own + self.dropout(self.feed(own)))
        return mixed


class CrossRelation(nn.Module):
    """ZSE's cross-attention and relation network: do a sketch and a photo show the same class?

    Args:
        dim: Width of the tokens.
        grid: Patch grid (h, w), both even.
        heads: Attention heads.
        hidden: Feed-forward width.
        layers: Cross-attention layers, one stack for sketches and one for photos.
        channels: Width of the tokens that are compared.
        dropout: In training.
        layout: ``"grid"``: tokens go into the convolution in their places; ``"released"``: (N, C) is read as (C, h, w).

    Raises:
        ZsbirError: If the heads do not divide the width, or the grid is odd.
    """

    def __init__(
        self,
        dim: int,
        grid: tuple[int, int],
        heads: int = 8,
        hidden: int = 1024,
        layers: int = 1,
        channels: int = 512,
        dropout: float = 0.1,
        layout: Literal["grid", "released"] = "grid",
    ) -> None:
        super().__init__()
        if dim % heads or grid[0] % 2 or grid[1] % 2:
            raise ZsbirError(f"zse: {heads} heads must divide the token width {dim}, and the patch grid {grid} be even")
        self.grid, self.layout = grid, layout
        self.of_sketches, self.of_photos = (
            nn.ModuleList(CrossLayer(dim, heads, hidden, dropout) for _ in range(layers)) for _ in range(2)
        )
        self.reduce = nn.Conv2d(dim, channels, 2, 2)
        n = grid[0] * grid[1] // 4
        self.network = nn.Sequential(
            nn.Linear(n * n, 7 * n), nn.ReLU(), nn.Dropout(dropout),
            nn.Linear(7 * n, n), nn.ReLU(), nn.Dropout(dropout), nn.Linear(n, 1),
        )  # fmt: skip

    def compare(self, sketch: Tensor, photo: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compare pairs.

        Args:
            sketch: (B, 1 + N, dim), class token first.
            photo: (B, 1 + N, dim), likewise.

        Returns:
            The class tokens (B, dim) of sketch and photo after the cross-attention, and the scores (B,) in (0, 1).
        """
        for mine, yours in zip(self.of_sketches, self.of_photos, strict=True):
            sketch, photo = mine(sketch, photo), yours(photo, sketch)
        a, b = (F.normalize(self._reduced(row[:, 1:]), dim=2) for row in (sketch, photo))
        score = self.network((a @ b.transpose(1, 2)).flatten(1)).squeeze(1).sigmoid()
        return sketch[:, 0], photo[:, 0], score

    def same(self, sketch: Tensor, photo: Tensor) -> Tensor:
        """Return the scores (B,) in (0, 1) of pairs; arguments as for `compare`."""
        return self.compare(sketch, photo)[2]

    def _reduced(self, tokens: Tensor) -> Tensor:
        """Return (B, N / 4, channels) of (B, N, dim)."""
        maps = tokens.transpose(1, 2) if self.layout == "grid" else tokens
        maps = maps.reshape(len(tokens), tokens.shape[2], *self.grid)
        reduced: Tensor = self.reduce(maps).flatten(2).transpose(1, 2)
        return reduced
