"""From scores of patches to kept patches, and how good the choice is."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from zsbir.errors import ZsbirError


def check_choice(ratio: float, keep: int | None, threshold: float | None) -> None:
    """Refuse settings of `choose` that contradict each other or are out of range.

    Raises:
        ZsbirError: If `ratio` is outside [0, 1), `keep` below 1, `threshold` outside [0, 1], or both are given.
    """
    if not 0 <= ratio < 1:
        raise ZsbirError(f"ratio={ratio} must be in [0, 1): it is the share of the patches that is masked")
    if keep is not None and keep < 1:
        raise ZsbirError(f"keep={keep} must be at least 1 patch")
    if threshold is not None and not 0 <= threshold <= 1:
        raise ZsbirError(f"threshold={threshold} must be in [0, 1]: maps are scaled to that range per photo")
    if keep is not None and threshold is not None:
        raise ZsbirError("keep and threshold are two ways to choose patches: give one of them")


def choose(scores: Tensor, ratio: float, keep: int | None = None, threshold: float | None = None) -> Tensor:
    """Keep the patches with the highest scores.

    Args:
        scores: (B, N) float, higher = more of the object.
        ratio: Share to mask, r in [0, 1). As published, ``int(N·r) + 1`` patches are masked: of 196 patches and
            r = 0.7, 138 are masked and 58 kept; for r = 0 one is masked.
        keep: Number of patches to keep instead.
        threshold: Keep what exceeds it instead, after scaling each row to [0, 1]; the best patch is always kept.

    Returns:
        (B, N) bool, True = keep; at least one in every row. Of equal scores the later patch is kept.

    >>> choose(torch.tensor([[0.1, 0.4, 0.3, 0.2]]), ratio=0.5)
    tensor([[False,  True, False, False]])
    """
    check_choice(ratio, keep, threshold)
    patches = scores.shape[1]
    order = scores.argsort(dim=1, stable=True)
    mask = torch.zeros_like(scores, dtype=torch.bool)
    if threshold is not None:
        low, high = scores.amin(1, keepdim=True), scores.amax(1, keepdim=True)
        mask = (scores - low) / (high - low).clamp_min(torch.finfo(scores.dtype).tiny) > threshold
        return mask.scatter(1, order[:, -1:], True)
    count = patches - int(patches * ratio) - 1 if keep is None else keep
    return mask.scatter(1, order[:, -min(max(count, 1), patches) :], True)


def coverage(objects: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return (B, N) float: the share of each patch that the object covers, of (B, H, W) bool masks.

    >>> coverage(torch.tensor([[[True, False], [True, True]]]), (1, 2))
    tensor([[1.0000, 0.5000]])
    """
    return F.adaptive_avg_pool2d(objects.float().unsqueeze(1), grid).flatten(1)


def purity(keep: Tensor, objects: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return (B,) float: how much of the kept area is object, the measure of a masker's quality.

    Args:
        keep: (B, N) bool, True = keep, at least one in every row.
        objects: (B, H, W) bool, True on the object.
        grid: The patch grid (h, w), ``N = h * w``.
    """
    share = coverage(objects, grid)
    return (share * keep).sum(1) / keep.sum(1)


def recall(keep: Tensor, objects: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return (B,) float: how much of the object's area lies in kept patches; arguments as for `purity`."""
    share = coverage(objects, grid)
    return (share * keep).sum(1) / share.sum(1).clamp_min(torch.finfo(share.dtype).tiny)
