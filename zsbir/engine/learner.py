"""What training changes: the method with its optimiser, its adapters and the average of its weights."""

from __future__ import annotations

import math
from contextlib import nullcontext
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from timm.optim import param_groups_layer_decay
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.optim import Optimizer

from zsbir.backbones.norms import batch_norms
from zsbir.engine.lora import Adapters, Lora
from zsbir.engine.speed import Speed
from zsbir.errors import ZsbirError
from zsbir.methods.base import Method, Recipe
from zsbir.methods.saving import save
from zsbir.types import Batch


class Average(ModelEmaV3):
    """An exponential moving average of a method's weights: ``a ← d·a + (1 − d)·w`` after each step, by timm.

    Attributes:
        module: A copy of the method, with the averaged weights.

    Args:
        method: Whose weights.
        decay: d, in (0, 1). The first steps use the smaller ``(1 + t) / (10 + t)``, so that the start is forgotten.
    """

    def __init__(self, method: nn.Module, decay: float) -> None:
        super().__init__(method, decay, use_warmup=True, warmup_gamma=9.0, warmup_power=1.0)

    def after(self, step: int, method: nn.Module) -> None:
        """Take in the weights after a step, counted from 0; integer buffers are copied."""
        self.update(method, step + 2)  # timm's ramp 1 - 1 / (1 + s / 9) counts s = t + 1, and one more before it


class Learner:
    """Takes the steps of a recipe.

    Args:
        method: Is changed in place: it gets the recipe's adapters, and is moved to the accelerator's device.
        recipe: Optimiser, rates, clipping, adapters and average.
        accelerator: Runs the steps.
        speed: How they run.
        seed: Of the adapters' random matrices.
        accumulate: Steps whose gradients are summed up for one step of the optimiser.

    Attributes:
        adapters: The low-rank adapters, or None.
        average: The average of the weights, or None.
        optimizer: The optimiser.
    """

    def __init__(
        self, method: Method, recipe: Recipe, accelerator: Accelerator, speed: Speed, seed: int, accumulate: int = 1
    ) -> None:
        self.method, self.recipe, self.accelerator, self.accumulate = method, recipe, accelerator, accumulate
        self.adapters = None if recipe.lora is None else Adapters(method, Lora.of(recipe.lora), seed)
        speed.prepare(method)
        method.to(accelerator.device)
        self.average = None if recipe.ema is None else Average(method, recipe.ema)
        self.optimizer: Optimizer = make_optimizer(method, recipe, speed.fused)

    def start(self, steps_per_epoch: int) -> None:
        """Wrap method and optimiser for precision and processes: once, before the first step."""
        self._per_epoch = steps_per_epoch
        prepared: tuple[Any, Any] = self.accelerator.prepare(self.method, self.optimizer)
        self._model, self._wrapped = prepared

    def start_epoch(self, epoch: int) -> None:
        """Set the method's schedules, and put it into training mode, but for norms that are fixed."""
        self.method.on_epoch(epoch, self.recipe.epochs)
        self._model.train()
        if self.recipe.fixed_norm:
            for norm in batch_norms(self.method):  # their scale and shift still train
                norm.eval()

    def step(self, batch: Batch, step: int) -> tuple[dict[str, Tensor], Tensor, float, bool]:
        """Train on the batch of a global step, counted from 0.

        Returns:
            The loss terms, their sum, the learning rate, and whether the optimiser moved.
        """
        factor = lr_factor(self.recipe, step, self._per_epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        place = step % self._per_epoch
        first = place - place % self.accumulate
        summed = min(self.accumulate, self._per_epoch - first)  # the last of an epoch may be fewer
        whole = place + 1 == first + summed
        with nullcontext() if whole else self.accelerator.no_sync(self._model):
            terms: dict[str, Tensor] = self._model(batch)
            total = torch.stack(list(terms.values())).sum()
            self.accelerator.backward(total / summed)
        if whole:
            if self.recipe.clip is not None:
                self.accelerator.clip_grad_norm_(self._model.parameters(), self.recipe.clip)
            self._wrapped.step()
            self._wrapped.zero_grad()
            if self.average is not None:
                self.average.after(step, self.method)
        return terms, total, factor * self.recipe.lr, whole

    @property
    def result(self) -> Method:
        """What is validated and saved as best: the average of the weights, where there is one."""
        return self.method if self.average is None else self.average.module

    def plain_state(self, method: Method) -> dict[str, Tensor] | None:
        """Return the state of the method, or of `result`, with the adapters merged; None without adapters."""
        return None if self.adapters is None else self.adapters.plain_state(method)

    def save(self, folder: Path) -> None:
        """Write `result`, with the adapters merged, as a method's folder."""
        save(self.result, folder, self.plain_state(self.result))

    def finish(self) -> None:
        """Give the method the average of its weights, and merge its adapters."""
        if self.average is not None:
            self.method.load_state_dict(self.average.module.state_dict())
        if self.adapters is not None:
            self.adapters.merge()


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
