"""How well kept patches cover the object."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def coverage(objects: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return (B, N) float: the share of each patch that the object covers, of (B, H, W) bool masks.

    >>> coverage(torch.tensor([[[True, False], [True, True]]]), (1, 2))
    tensor([[1.0000, 0.5000]])
    """
    return F.adaptive_avg_pool2d(objects.float().unsqueeze(1), grid).flatten(1)


def precision(keep: Tensor, objects: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return (B,) float: how much of the kept area is object.

    Args:
        keep: (B, N) bool, True = keep, at least one in every row.
        objects: (B, H, W) bool, True on the object.
        grid: The patch grid (h, w), ``N = h * w``.
    """
    share = coverage(objects, grid)
    return (share * keep).sum(1) / keep.sum(1)


def recall(keep: Tensor, objects: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return (B,) float: how much of the object's area lies in kept patches; arguments as for `precision`."""
    share = coverage(objects, grid)
    return (share * keep).sum(1) / share.sum(1).clamp_min(torch.finfo(share.dtype).tiny)
