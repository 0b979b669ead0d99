"""What a recipe does to the weights besides the optimiser's steps: freezing, layer-wise rates, an average of them."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

from timm.optim import param_groups_layer_decay
from timm.utils import ModelEmaV3
from torch import nn

from zsbir.errors import ZsbirError


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
    frozen, parameters = 0, dict(method.named_parameters())
    for pattern in patterns:
        matched = [p.requires_grad_(False) for name, p in parameters.items() if fnmatchcase(name, pattern)]
        if not matched:
            example = next(iter(parameters), "none")
            raise ZsbirError(f"freeze={pattern!r} matches no parameter name; the first name is {example!r}")
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
    """Return what each trainable parameter's rate is multiplied by: ``decay ** (layers above it)``, by its ``id``.

    The layers are timm's. Parameters outside of timm nets are not in the result: they train at the full rate.

    Raises:
        ZsbirError: If the method has no timm net.
    """
    nets: list[Any] = [module for module in method.modules() if hasattr(module, "group_matcher")]
    if not nets:
        raise ZsbirError("layer_decay needs a timm backbone: this method has none")
    groups = [group for net in nets for group in param_groups_layer_decay(net, layer_decay=decay)]
    return {id(parameter): group["lr_scale"] for group in groups for parameter in group["params"]}


class Average(ModelEmaV3):
    """An exponential moving average of a method's weights: ``a ← d·a + (1 − d)·w`` after each step, by timm.

    Attributes:
        module: A copy of the method, with the averaged weights.

    Args:
        method: Whose weights.
        decay: d, in (0, 1). The first steps use the smaller ``(1 + t) / (10 + t)``, so that the start is forgotten.
    """

    def __init__(self, method: nn.Module, decay: float) -> None:
        if not 0 < decay < 1:
            raise ZsbirError(f"ema={decay} must lie between 0 and 1")
        super().__init__(method, decay, use_warmup=True, warmup_gamma=9.0, warmup_power=1.0)

    def after(self, step: int, method: nn.Module) -> None:
        """Take the weights after step `step`, counted from 0, in; integer buffers are copied."""
        self.update(method, step + 2)  # timm's ramp 1 - 1 / (1 + s / 9) counts s = t + 1, and one more before it
