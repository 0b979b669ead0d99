"""Settings that change how fast a step is, and not what it computes (beyond rounding)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from zsbir.arguments import checked
from zsbir.backbones.base import Backbone
from zsbir.methods.base import Method


@checked("speed")
@dataclass(frozen=True)
class Speed:
    """How steps are run. The defaults are what `benchmarks/training.py` found no slower anywhere.

    Attributes:
        channels_last: Keep convolutional weights and images in NHWC order.
        compile: ``torch.compile`` the backbones, or the whole method where it has none: slow to start, faster steps,
            mostly on a GPU.
        fused: The optimiser in one kernel.
        tf32: Matrix products of float32 in TF32 on NVIDIA GPUs.
        checkpointing: Recompute activations instead of keeping them: less memory, slower (timm backbones).
    """

    channels_last: bool = False
    compile: bool = False
    fused: bool = True
    tf32: bool = True
    checkpointing: bool = False

    @classmethod
    def auto(cls) -> Speed:
        """Return what is fast: NHWC order too, which tensor cores need, and processors were measured to be faster with.

        The rest of what suits a GPU needs no option: pinned memory, and the next batch copied while one computes.
        """
        return cls(channels_last=True)

    def prepare(self, method: Method) -> None:
        """Apply the settings to a method, in place; its parameter names stay the same."""
        if self.channels_last:
            method.to(memory_format=torch.channels_last)
        if self.tf32 and torch.cuda.is_available():
            torch.set_float32_matmul_precision("high")
        if self.checkpointing:
            for module in method.modules():
                switch: Any = getattr(module, "set_grad_checkpointing", None)
                if switch is not None:
                    switch(True)
        if self.compile:
            # Around the backbones stand file names and counters, which would be compiled anew at every step.
            backbones: list[nn.Module] = [module for module in method.modules() if isinstance(module, Backbone)]
            for module in backbones or [method]:
                module.compile()
