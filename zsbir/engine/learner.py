"""What training changes: the method with its optimiser, its adapters and the average of its weights."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.optim import Optimizer

from zsbir.backbones.norms import batch_norms
from zsbir.engine.lora import Adapters, Lora
from zsbir.engine.optim import lr_factor, make_optimizer
from zsbir.engine.speed import Speed
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
