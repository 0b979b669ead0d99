"""The image tower of an open_clip model as a backbone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from zsbir.arguments import Count
from zsbir.backbones import BACKBONES
from zsbir.backbones.base import Backbone
from zsbir.backbones.weights import wanted
from zsbir.clip import create_clip, image_input
from zsbir.types import Features


def clip_source(pretrained: bool, weights: str | None, tag: str = "openai") -> str | None:
    """Return what `create_clip` loads: the file, else the tag; nothing within `without_weights`."""
    return (weights or (tag if pretrained else None)) if wanted(True) else None


@BACKBONES.register("open-clip")
class OpenClipBackbone(Backbone):
    """The image tower of any open_clip model; the text tower is dropped.

    Args:
        model: An open_clip name, or its configuration as a mapping.
        pretrained: Load the weights with the tag `tag` (needs the network once).
        weights: A local weights file instead.
        tag: open_clip's name of the weights, such as ``"openai"``.
        image_size: Side of the input in pixels; None: the model's own. Position embeddings are interpolated.

    The vector is the image feature in the space of the texts. A ViT also gives its patch tokens after the last norm,
    not projected, and their grid.
    """

    def __init__(
        self,
        model: str | Mapping[str, Any] = "ViT-B-32-quickgelu",
        pretrained: bool = False,
        weights: str | None = None,
        tag: str = "openai",
        image_size: Count | None = None,
    ) -> None:
        super().__init__()
        visual = create_clip(model, clip_source(pretrained, weights, tag), image_size).visual
        self.visual: Any = visual.requires_grad_(True).train()
        if hasattr(visual, "output_tokens"):
            visual.output_tokens = True
        self.image_size, self.mean, self.std = image_input(visual)
        self.grid: tuple[int, int] | None = tuple(getattr(visual, "grid_size", ())) or None
        example = self.example()
        self.dim = example.vector.shape[1]
        if example.tokens is None or self.grid is None or self.grid[0] * self.grid[1] != example.tokens.shape[1]:
            self.grid = None

    def forward(self, images: Tensor) -> Features:
        """Return the image feature (B, D), and a ViT's patch tokens, of (B, 3, H, W) float32 normalised images."""
        seen = self.visual(images)
        vector, tokens = seen if isinstance(seen, tuple) else (seen, None)
        return Features(vector, None if self.grid is None else tokens, self.grid)
