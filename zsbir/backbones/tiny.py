"""A very small convolutional net."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from zsbir.arguments import Count
from zsbir.backbones import BACKBONES
from zsbir.backbones.base import Backbone
from zsbir.backbones.weights import load_weights
from zsbir.errors import ZsbirError
from zsbir.types import Features


@BACKBONES.register("tiny")
class Tiny(Backbone):
    """Four strided convolutions, for tests and first steps: runs anywhere in milliseconds.

    Args:
        pretrained: Refused: this net has no published weights.
        weights: A local weights file.
        image_size: Side of the input in pixels, a multiple of 16.
        width: Channels of the first layer; the vector is 8 times as wide.
    """

    def __init__(
        self, pretrained: bool = False, weights: str | None = None, image_size: Count = 64, width: Count = 16
    ) -> None:
        super().__init__()
        if pretrained and weights is None:
            raise ZsbirError(
                "the backbone 'tiny' has no pretrained weights: give weights=FILE (--weights FILE), or use "
                "pretrained=False (--no-pretrained)"
            )
        if image_size % 16:
            raise ZsbirError(f"the backbone 'tiny' needs an image size divisible by 16, not {image_size}")
        widths = (3, width, 2 * width, 4 * width, 8 * width)
        self.net = nn.Sequential()
        for before, after in pairwise(widths):
            convolution = nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False)
            self.net.extend([convolution, nn.GroupNorm(4, after), nn.ReLU()])
        self.dim, self.image_size, self.grid = widths[-1], image_size, (image_size // 16, image_size // 16)
        self.mean = self.std = (0.5, 0.5, 0.5)
        if weights is not None:
            load_weights(self.net, weights)

    def forward(self, images: Tensor) -> Features:
        """Return vector (mean and so ``dim`` wide), tokens and grid of (B, 3, H, W) float32 normalised images."""
        maps: Tensor = self.net(images)
        tokens = maps.flatten(2).transpose(1, 2)
        return Features(torch.mean(tokens, dim=1), tokens, (maps.shape[2], maps.shape[3]))
