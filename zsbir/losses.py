"""Losses that more than one method may want: pure functions of tensors.

``B`` is the batch size, ``D`` the width of the vectors, ``C`` the number of classes. All but `gradient_reversal`
compute in float32 or more: under mixed precision, distances of half-precision vectors would overflow.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from zsbir.errors import ZsbirError


class _GradientReversal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, strength: float) -> Tensor:
        ctx.strength = strength
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        # A plain product of tensors, so autograd can differentiate it again.
        return -ctx.strength * gradients[0], None


def gradient_reversal(x: Tensor, strength: float = 1.0) -> Tensor:
    """Return `x` unchanged; its gradient is multiplied by ``-strength`` on the way back.

    The layers after it learn to minimise a loss, those before it to maximise it (Ganin and Lempitsky, "Unsupervised
    domain adaptation by backpropagation", ICML 2015, arXiv 1409.7495).

    Args:
        x: Any shape, floating point.
        strength: λ, at least 0; 0: no gradient flows back.

    Returns:
        A tensor equal to `x`.

    >>> x = torch.tensor([2.0], requires_grad=True)
    >>> (3 * gradient_reversal(x, 0.5)).sum().backward()
    >>> x.grad
    tensor([-1.5000])
    """
    reversed_: Tensor = _GradientReversal.apply(x, strength)
    return reversed_


def triplet_loss(anchor: Tensor, positive: Tensor, negative: Tensor, margin: float = 1.0) -> Tensor:
    """Return the mean of ``max(0, ‖a − p‖₂ − ‖a − n‖₂ + margin)``.

    Source: Schroff et al., "FaceNet", CVPR 2015, with plain (not squared) Euclidean distances.

    Args:
        anchor: (B, D), sketches.
        positive: (B, D), photos of the anchors' classes.
        negative: (B, D), photos of other classes.
        margin: How much farther the negative should be, above 0, in units of the vectors.

    Returns:
        A scalar, at least 0.

    >>> a, p, n = torch.zeros(1, 2), torch.tensor([[0.0, 1.0]]), torch.tensor([[0.0, 1.5]])
    >>> round(float(triplet_loss(a, p, n)), 3)
    0.5
    """
    return F.triplet_margin_loss(_full(anchor), _full(positive), _full(negative), margin=margin)


def cosine_triplet_loss(anchor: Tensor, positive: Tensor, negative: Tensor, margin: float = 0.2) -> Tensor:
    """Return the mean of ``max(0, cos(a, n) − cos(a, p) + margin)`` over rows of three (B, D) tensors."""
    a = _full(anchor)
    gap = F.cosine_similarity(a, _full(negative)) - F.cosine_similarity(a, _full(positive))
    return F.relu(gap + margin).mean()


def batch_triplet_loss(
    anchor: Tensor, photo: Tensor, label: Tensor, photo_label: Tensor, margin: float = 1.0
) -> Tensor:
    """Return the triplet loss over every triplet of a batch, averaged over the triplets that break the margin.

    Each sketch is compared with every photo of its class and every photo of another class in the batch ("batch all"
    of Hermans et al., "In defense of the triplet loss", arXiv 1703.07737).

    Args:
        anchor: (B, D), sketches.
        photo: (P, D), photos.
        label: (B,) int64, classes of the sketches.
        photo_label: (P,) int64, classes of the photos.
        margin: As for `triplet_loss`.

    Returns:
        A scalar, at least 0; 0 if no triplet breaks the margin.
    """
    # The exact distance: the one by matrix products has no usable gradient between near vectors.
    distance = torch.cdist(_full(anchor), _full(photo), compute_mode="donot_use_mm_for_euclid_dist")
    same = label[:, None] == photo_label[None]
    short = F.relu(distance[:, :, None] - distance[:, None, :] + margin)
    valid = same[:, :, None] & ~same[:, None, :]
    short = short * valid
    return short.sum() / (short > 0).sum().clamp(min=1)


def supervised_contrastive_loss(vectors: Tensor, label: Tensor, temperature: float = 0.1) -> Tensor:
    """Return the mean over i of ``− mean over p of log( exp(z_i·z_p / t) / Σ_{a ≠ i} exp(z_i·z_a / t) )``.

    Source: Khosla et al., "Supervised contrastive learning", NeurIPS 2020 (arXiv 2004.11362), L_out.

    Args:
        vectors: (B, D) unit vectors z; p runs over the others of i's class.
        label: (B,) int64.
        temperature: t.

    >>> supervised_contrastive_loss(torch.eye(2).repeat(2, 1), torch.tensor([0, 1, 0, 1]), 0.01).abs().item()
    0.0
    """
    z = _full(vectors)
    same = label[:, None] == label
    itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    log_share = F.log_softmax((z @ z.T / temperature).masked_fill(itself, -torch.inf), dim=1)
    positive = same & ~itself
    each = log_share.masked_fill(~positive, 0).sum(dim=1) / positive.sum(dim=1).clamp(min=1)
    return -each.mean()


def soft_cross_entropy(logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Return the cross-entropy against soft targets, ``−Σ_c target_c · log softmax(logits)_c``, averaged over rows.

    Args:
        logits: (B, C).
        target: (B, C) probabilities; rows sum to 1.
        weight: (B,) weight of each row in the mean, at least 0; None: all 1. If all are 0, so is the mean.

    Returns:
        A scalar.

    Raises:
        ZsbirError: If the shapes differ.
    """
    if logits.shape != target.shape:
        raise ZsbirError(f"logits {tuple(logits.shape)} and targets {tuple(target.shape)} must have the same shape")
    rows = -(_full(target) * F.log_softmax(_full(logits), dim=1)).sum(dim=1)
    if weight is None:
        return rows.mean()
    given = weight.to(rows.dtype)
    return (rows * given).sum() / given.sum().clamp(min=torch.finfo(rows.dtype).tiny)


def reconstruction_loss(tokens: Tensor, keep: Tensor) -> Tensor:
    """Return the mean squared difference of tokens and masked tokens.

    Args:
        tokens: (B, N, D) float, patch tokens of photos.
        keep: (B, N) bool, True = keep.

    Returns:
        A scalar, at least 0; 0 if all is kept. Its gradient shrinks the masked tokens, and is the same whether or not
        it flows through the masked tokens: where the mask is 1 the difference is 0, where it is 0 they are constant.
    """
    tokens = _full(tokens)
    return F.mse_loss(tokens, tokens * keep.unsqueeze(2))


def _full(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
