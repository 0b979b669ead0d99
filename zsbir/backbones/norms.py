"""BatchNorm statistics of another domain (adaptive batch normalisation, Y. Li et al., arXiv 1603.04779)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from zsbir.errors import ZsbirError


def batch_norms(module: nn.Module) -> list[Any]:
    """Return the BatchNorm layers that keep statistics, in the order of ``module.modules()``."""
    kinds = nn.modules.batchnorm._BatchNorm
    return [m for m in module.modules() if isinstance(m, kinds) and m.running_mean is not None]


@torch.no_grad()
def adapt_norms(module: nn.Module, batches: Iterable[Tensor], share: float = 1.0) -> None:
    """Move a network's BatchNorm statistics towards those of other images; weights and labels are not touched.

    Each batch is normalised by its own statistics on its way through the network. The result is
    ``(1 − share) · stored + share · measured``, where the measured statistics are the mean over the batches.

    Args:
        module: The network, such as a backbone. Its mode is kept.
        batches: Inputs (B, 3, H, W) float32, normalised, B at least 2; every batch has the same weight.
        share: In [0, 1]; 1: the measured statistics alone.

    Raises:
        ZsbirError: If the network has no such layer, `share` is out of range, or there is no batch.
    """
    norms = batch_norms(module)
    if not norms:
        raise ZsbirError(f"{type(module).__name__} has no BatchNorm statistics to adapt (transformers have none)")
    if not 0 <= share <= 1:
        raise ZsbirError(f"share={share} must lie between 0 and 1")
    kept = [(m.running_mean.clone(), m.running_var.clone(), m.momentum) for m in norms]
    modes = {m: m.training for m in module.modules()}
    module.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over the batches
        norm.train()
    count = 0
    try:
        for count, batch in enumerate(batches, 1):  # noqa: B007 (used below)
            module(batch)
    finally:
        for norm, (mean, var, momentum) in zip(norms, kept, strict=True):
            norm.running_mean.copy_(mean.lerp(norm.running_mean, share if count else 0.0))
            norm.running_var.copy_(var.lerp(norm.running_var, share if count else 0.0))
            norm.momentum = momentum
        for part, mode in modes.items():
            part.training = mode
    if not count:
        raise ZsbirError("adapt_norms got no batch to measure")
