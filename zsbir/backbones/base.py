"""The backbone contract."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn

from zsbir.backbones import BACKBONES
from zsbir.errors import ZsbirError
from zsbir.types import Features


class Backbone(nn.Module):
    """Images to features.

    Attributes:
        dim: Width ``D`` of ``Features.vector``.
        grid: Patch grid (h, w) of ``Features.tokens``, or None for a backbone without tokens.
        image_size: Side of the square input in pixels.
        mean: Per channel, that the weights expect of images in [0, 1].
        std: Standard deviation, likewise.
        spec: What `BACKBONES.build` recorded.
        stages: How many parts, run one after the other, the net can be cut into; 0: it cannot be cut.
        frozen: How many of the first stages are frozen; for a net that cannot be cut, 1 if all of it is.
    """

    dim: int
    grid: tuple[int, int] | None
    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    spec: dict[str, Any]
    __call__: Callable[..., Features]

    stages: int = 0
    frozen: int = 0

    def train_last(self, count: int) -> None:
        """Let only the last `count` stages train, 0: none; frozen stages stay in evaluation mode.

        Raises:
            ZsbirError: If the backbone does not have that many stages.
        """
        if count > self.stages:
            known = f"only {self.stages} stages" if self.stages else "no stages that can be told apart"
            raise ZsbirError(f"the last {count} stages cannot train: {type(self).__name__} has {known}")
        self.frozen = self.stages - count if self.stages else 1
        self.requires_grad_(False)

    def frozen_state(self) -> dict[str, Tensor]:
        """Return the weights that `lower` uses, by name."""
        return self.state_dict()

    def lower(self, images: Tensor) -> Tensor:
        """Return the output of the frozen stages for (B, 3, H, W) float32 normalised images.

        This is the vector (B, D) if all stages are frozen, else a feature map (B, C, h, w). It may be stored:
        `features` takes it in place of the images.
        """
        return self(images).vector

    def features(self, images: Tensor) -> Features:
        """Return `forward` of images or of a stored feature map; a stored vector is the features already."""
        return Features(images) if images.ndim == 2 else self(images)

    def forward(self, images: Tensor) -> Features:
        """Return the features of (B, 3, H, W) float32 normalised images, or of the output of `lower`."""
        raise TypeError(f"{type(self).__name__} has no forward")

    def train(self, mode: bool = True) -> Self:
        """Switch the mode; a backbone that is wholly frozen stays in evaluation mode."""
        return super().train(mode and self.frozen != (self.stages or 1))

    @torch.no_grad()
    def example(self) -> Features:
        """Return the features of one black image: they show all sizes, also those not in `dim` and `grid`."""
        was_training = self.training
        features = self.eval()(torch.zeros(1, 3, self.image_size, self.image_size))
        self.train(was_training)
        return features

    def with_attention(self, images: Tensor) -> Features:
        """Return the features with ``attention`` filled; backbones without a class token raise ZsbirError."""
        raise ZsbirError(f"the backbone {type(self).__name__} has no class-token attention; use a timm ViT")


def build_backbone(
    backbone: str | Mapping[str, Any] | Backbone,
    pretrained: bool = False,
    weights: str | None = None,
    image_size: int | None = None,
    **more: Any,
) -> Backbone:
    """Build a method's backbone; the entries of a mapping win over the other arguments.

    Args:
        backbone: Name, mapping or instance.
        pretrained: Load the pretrained weights.
        weights: A local weights file instead.
        image_size: Side of the input in pixels; None: the backbone's own.
        **more: Further arguments of the backbone; those that are None are left out.

    Raises:
        ZsbirError: For an unknown name or argument, or any argument with an instance.
    """
    own = backbone if isinstance(backbone, Mapping) else {}
    given = {"pretrained": pretrained or None, "weights": weights, "image_size": image_size, **more}
    return BACKBONES.build(backbone, **{k: v for k, v in given.items() if v is not None and k not in own})
