"""From scores of patches to kept patches."""

from __future__ import annotations

import torch
from torch import Tensor

from zsbir.arguments import Count, Proportion, Ratio
from zsbir.errors import ZsbirError
from zsbir.maskers.base import Masker, MaskRequest


def choose(scores: Tensor, ratio: float, keep: int | None = None, threshold: float | None = None) -> Tensor:
    """Keep the patches with the highest scores.

    Args:
        scores: (B, N) float, higher = more of the object.
        ratio: Share to mask, r in [0, 1). As published, ``int(N·r) + 1`` patches are masked: of 196 patches and
            r = 0.7, 138 are masked and 58 kept; for r = 0 one is masked.
        keep: Number of patches to keep instead.
        threshold: Keep instead the patches above it, with each row scaled to [0, 1]; the best patch is always kept.

    Returns:
        (B, N) bool, True = keep; at least one in every row. Of equal scores the later patch is kept.

    >>> choose(torch.tensor([[0.1, 0.4, 0.3, 0.2]]), ratio=0.5)
    tensor([[False,  True, False, False]])
    """
    patches = scores.shape[1]
    order = scores.argsort(dim=1, stable=True)
    mask = torch.zeros_like(scores, dtype=torch.bool)
    if threshold is not None:
        low, high = scores.amin(1, keepdim=True), scores.amax(1, keepdim=True)
        mask = (scores - low) / (high - low).clamp_min(torch.finfo(scores.dtype).tiny) > threshold
        return mask.scatter(1, order[:, -1:], True)
    count = patches - int(patches * ratio) - 1 if keep is None else keep
    return mask.scatter(1, order[:, -min(max(count, 1), patches) :], True)


class ScoreMasker(Masker):
    """Keeps the patches with the highest values in its `heatmap`; arguments as for `choose`.

    Raises:
        ZsbirError: If both `keep` and `threshold` are given.
    """

    def __init__(self, ratio: Ratio = 0.7, keep: Count | None = None, threshold: Proportion | None = None) -> None:
        super().__init__()
        if keep is not None and threshold is not None:
            raise ZsbirError("keep and threshold are two ways to choose patches: give one of them")
        self.ratio, self.keep, self.threshold = ratio, keep, threshold

    def forward(self, request: MaskRequest) -> Tensor:
        """Return (B, N) bool, True = keep."""
        return choose(self.heatmap(request), self.ratio, self.keep, self.threshold)
