"""What a recipe does to the weights besides the optimiser's steps: freezing, layer-wise rates, an average of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from zsbir.errors import ZsbirError
from zsbir.methods.saving import plain_tensors


def freeze(method: nn.Module, patterns: tuple[str, ...]) -> int:
    """Stop the parameters whose names match a pattern from training.

    Args:
        method: Whose parameters.
        patterns: Shell patterns of parameter names, such as ``"*.blocks.[0-5].*"``.

    Returns:
        How many parameters are frozen by it.

    Raises:
        ZsbirError: If a pattern matches no parameter.
    """
    frozen = 0
    for pattern in patterns:
        matched = [p for name, p in method.named_parameters() if fnmatchcase(name, pattern)]
        if not matched:
            example = next(iter(dict(method.named_parameters())), "none")
            raise ZsbirError(f"freeze={pattern!r} matches no parameter name; the first name is {example!r}")
        for parameter in matched:
            parameter.requires_grad_(False)
        frozen += len(matched)
    return frozen


def fix_norms(method: nn.Module) -> None:
    """Put the BatchNorm layers into evaluation mode: they use their statistics and do not change them.

    ``method.train()`` undoes it. Their scale and shift still train.
    """
    for module in method.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


def layer_rates(method: nn.Module, decay: float) -> dict[int, float]:
    """Return what each parameter's rate is multiplied by: ``decay ** (layers above it)``, by ``id`` of the parameter.

    The layers are timm's own groups (``group_matcher``). Parameters outside of timm nets are not in the result: they
    train at the full rate.

    Raises:
        ZsbirError: If the method has no timm net.
    """
    from timm.models import group_parameters

    rates: dict[int, float] = {}
    for module in method.modules():
        matcher: Any = getattr(module, "group_matcher", None)
        if matcher is None:
            continue
        layers: dict[int, list[str]] = group_parameters(module, matcher(coarse=False))
        named = dict(module.named_parameters())
        top = max(layers)
        for layer, names in layers.items():
            rates.update({id(named[name]): decay ** (top - layer) for name in names})
    if not rates:
        raise ZsbirError("layer_decay needs a timm backbone: this method has none")
    return rates


def with_layer_rates(groups: list[dict[str, Any]], rates: dict[int, float], lr: float) -> list[dict[str, Any]]:
    """Split parameter groups so that each parameter has its group's rate times its layer's."""
    split: list[dict[str, Any]] = []
    for group in groups:
        by_rate: dict[float, list[nn.Parameter]] = {}
        for parameter in group["params"]:
            by_rate.setdefault(rates.get(id(parameter), 1.0), []).append(parameter)
        split += [{**group, "params": p, "lr": group.get("lr", lr) * rate} for rate, p in by_rate.items()]
    return split


class Average:
    """An exponential moving average of a method's weights: ``a ← d·a + (1 − d)·w`` after each step.

    Args:
        method: Whose weights.
        decay: d, in (0, 1). The first steps use the smaller ``(1 + t) / (10 + t)``, so that the start is forgotten.
    """

    def __init__(self, method: nn.Module, decay: float) -> None:
        if not 0 < decay < 1:
            raise ZsbirError(f"ema={decay} must lie between 0 and 1")
        self.decay = decay
        self.weights = {k: v.detach().clone() for k, v in method.state_dict().items()}

    @torch.no_grad()
    def update(self, method: nn.Module, step: int) -> None:
        """Take the weights after step `step` (from 0) in; integer buffers are copied."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, value in method.state_dict().items():
            own = self.weights[name]
            if own.dtype.is_floating_point:
                own.lerp_(value.to(own), 1 - decay)
            else:
                own.copy_(value)

    @contextmanager
    def applied(self, method: nn.Module) -> Iterator[None]:
        """Put the averaged weights into the method for a while."""
        kept: dict[str, Tensor] = {k: v.detach().clone() for k, v in method.state_dict().items()}
        method.load_state_dict(self.weights)
        try:
            yield
        finally:
            method.load_state_dict(kept)

    def save(self, file: Path) -> None:
        """Write the average as safetensors."""
        save_file(plain_tensors(self.weights), file)

    def load(self, file: Path) -> None:
        """Read what `save` wrote; raises ZsbirError if it is missing."""
        if not file.is_file():
            raise ZsbirError(f"the run averages its weights (ema), but {file} is missing: it cannot be resumed")
        for name, value in load_file(file).items():
            self.weights[name].copy_(value)
