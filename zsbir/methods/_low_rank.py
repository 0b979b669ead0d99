"""Low-rank updates of frozen linear maps, shared by both domains or one for each."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zsbir.errors import ZsbirError
from zsbir.types import Domain

_MAPS = (("attn", "qkv", 3), ("attn", "proj", 1), ("mlp", "fc1", 1), ("mlp", "fc2", 1))
"""Linear maps of a timm ViT's block, and how many maps each is made of."""


class LowRank(nn.Module):
    """A frozen linear map W with a trained update, ``x ↦ W x + B A x`` (LoRA, arXiv 2106.09685, without its scale).

    Args:
        linear: W; (out, in). It stops training.
        rank: Rows of A, at least 1. A starts as a linear layer's weight does, B at zero: the map starts as W.
        parts: How many maps of equal width `linear` holds, each with an A and a B of its own: 3 for fused q, k, v.
        domains: 1: sketches and photos share A and B; 2: each has its own.
    """

    def __init__(self, linear: nn.Linear, rank: int, parts: int = 1, domains: int = 1) -> None:
        super().__init__()
        self.linear = linear.requires_grad_(False)
        self.down = nn.Parameter(torch.empty(domains, parts, rank, linear.in_features))
        self.up = nn.Parameter(torch.zeros(domains, parts, linear.out_features // parts, rank))
        # kaiming_uniform_ with a = √5, as published, is this range.
        nn.init.uniform_(self.down, -1 / math.sqrt(linear.in_features), 1 / math.sqrt(linear.in_features))
        self.domain = 0

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., out) of (..., in)."""
        which = self.domain if len(self.up) > 1 else 0
        low = F.linear(x, self.down[which].flatten(0, 1)).unflatten(-1, (self.up.shape[1], -1))
        update = torch.einsum("...pr,por->...po", low, self.up[which]).flatten(-2)
        frozen: Tensor = self.linear(x)
        return frozen + update


def add_low_rank(vit: Any, rank: int, own_blocks: int = 0) -> list[LowRank]:
    """Freeze a timm ViT and put an update on every linear map of its blocks; return the updates.

    Args:
        vit: The timm model.
        rank: See `LowRank`.
        own_blocks: How many of the last blocks have updates for each domain.

    Raises:
        ZsbirError: If the model has no blocks of such maps, or a number is out of range.
    """
    blocks = list(getattr(vit, "blocks", ()))
    maps = [getattr(getattr(block, part, None), name, None) for block in blocks for part, name, _ in _MAPS]
    if not blocks or not all(isinstance(found, nn.Linear) for found in maps):
        raise ZsbirError("low-rank updates need a timm ViT with fused q, k, v, such as 'vit_base_patch14_dinov2'")
    if rank < 1 or not 0 <= own_blocks <= len(blocks):
        raise ZsbirError(f"rank={rank} must be at least 1, and own_blocks={own_blocks} between 0 and {len(blocks)}")
    vit.requires_grad_(False)
    added = []
    for number, block in enumerate(blocks):
        domains = 2 if number >= len(blocks) - own_blocks else 1
        for part, name, parts in _MAPS:
            owner = getattr(block, part)
            update = LowRank(getattr(owner, name), rank, parts, domains)
            setattr(owner, name, update)
            added.append(update)
    return added


def switch(updates: list[LowRank], domain: Domain) -> None:
    """Let the updates be those of one domain."""
    for update in updates:
        update.domain = int(domain == "photo")
