"""Optimisers and learning-rate schedules of a recipe."""

from __future__ import annotations

import math
from fnmatch import fnmatchcase
from typing import Any

import torch
from timm.optim import param_groups_layer_decay
from torch import nn
from torch.optim import Optimizer

from zsbir.errors import ZsbirError
from zsbir.methods.base import Method, Recipe


def make_optimizer(method: Method, recipe: Recipe, fused: bool = False) -> Optimizer:
    """Freeze what the recipe freezes, and build its optimiser over the method's parameter groups.

    Each group keeps its own start rate in ``initial_lr`` (its ``lr``, or the recipe's, times its layer's).

    Args:
        method: What trains.
        recipe: Optimiser, rate, weight decay, frozen parameters, layer-wise rates.
        fused: One kernel for all parameters.

    Raises:
        ZsbirError: If there is nothing to train, a pattern of ``freeze`` matches no parameter, or ``layer_decay`` finds
            no timm net.
    """
    _freeze(method, recipe.freeze)
    wanted = method.param_groups(recipe)
    groups = [{**group, "params": [p for p in group["params"] if p.requires_grad]} for group in wanted]
    if recipe.layer_decay is not None:
        groups = _by_layer(method, groups, recipe.layer_decay, recipe.lr)
    groups = [{**group, "initial_lr": group.get("lr", recipe.lr)} for group in groups if group["params"]]
    if not groups:
        what = "so there is nothing to train" if method.trains else "it is measured: call its fit(dataset) instead"
        raise ZsbirError(f"{type(method).__name__} has no trainable parameters, {what}")
    options: dict[str, Any] = {"lr": recipe.lr, "weight_decay": recipe.weight_decay, "fused": fused}
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=0.9, **options)
    return (torch.optim.Adam if recipe.optimizer == "adam" else torch.optim.AdamW)(groups, **options)


def _freeze(method: nn.Module, patterns: tuple[str, ...]) -> None:
    """Stop the parameters whose names match a shell pattern from training."""
    parameters = dict(method.named_parameters())
    for pattern in patterns:
        matched = [p.requires_grad_(False) for name, p in parameters.items() if fnmatchcase(name, pattern)]
        if not matched:
            example = next(iter(parameters), "none")
            raise ZsbirError(f"freeze={pattern!r} matches no parameter name; the first name is {example!r}")


def _by_layer(method: nn.Module, groups: list[dict[str, Any]], decay: float, lr: float) -> list[dict[str, Any]]:
    """Split parameter groups by rate: the group's, in a timm net times ``decay ** (layers above it)``."""
    nets: list[Any] = [module for module in method.modules() if hasattr(module, "group_matcher")]
    if not nets:
        raise ZsbirError("layer_decay needs a timm backbone: this method has none")
    layers = [group for net in nets for group in param_groups_layer_decay(net, layer_decay=decay)]
    rates = {id(parameter): layer["lr_scale"] for layer in layers for parameter in layer["params"]}
    split: list[dict[str, Any]] = []
    for group in groups:
        by_rate: dict[float, list[nn.Parameter]] = {}
        for parameter in group["params"]:
            by_rate.setdefault(rates.get(id(parameter), 1.0), []).append(parameter)
        split += [{**group, "params": p, "lr": group.get("lr", lr) * rate} for rate, p in by_rate.items()]
    return split


def lr_factor(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    """Return what the start rates are multiplied by at a global step, counted from 0.

    ``"exponential"`` is constant within an epoch (``decay ** (epoch / epochs)``), as published with SBKA; ``"cosine"``
    falls from 1 to 0 over all steps. Warm-up is a linear ramp on top.

    >>> [round(lr_factor(Recipe(epochs=2, schedule="exponential", decay=0.01), s, 2), 3) for s in range(4)]
    [1.0, 1.0, 0.1, 0.1]
    """
    factor = 1.0
    if recipe.schedule == "cosine":
        factor = 0.5 * (1 + math.cos(math.pi * step / (recipe.epochs * steps_per_epoch)))
    elif recipe.schedule == "exponential":
        factor = recipe.decay ** ((step // steps_per_epoch) / recipe.epochs)
    return factor * min(1.0, (step + 1) / recipe.warmup) if recipe.warmup else factor
