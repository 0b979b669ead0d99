"""PuXIM's encoder: a timm ViT with dropout whose patch embedding is averaged with a convolutional stem."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from zsbir.arguments import Count, Positive, Ratio
from zsbir.backbones import BACKBONES
from zsbir.backbones.base import Backbone
from zsbir.backbones.timm import TimmBackbone
from zsbir.errors import ZsbirError
from zsbir.types import Features

WIDTHS = (64, 128, 256, 512)


def conv_stem(dim: int, patch: int) -> nn.Sequential:
    """Return convolutions that turn (B, 3, H, W) into (B, dim, H / patch, W / patch), without biases.

    For a patch of 16 this is the published stem: 3→64 (kernel 7), 64→128, 128→256, 256→dim (kernel 3), stride 2 each,
    with a ReLU between. Patches of 4, 8 and 32 take fewer or more layers; of another even size, the last layer takes
    the rest of the stride (14: 7).

    Raises:
        ZsbirError: If `patch` is odd or below 4.
    """
    strides = [2]
    rest = patch // 2
    while rest % 2 == 0 and rest > 2:
        strides.append(2)
        rest //= 2
    strides.append(rest)
    if patch % 2 or patch < 4 or len(strides) > len(WIDTHS) + 1:
        raise ZsbirError(f"a convolutional stem needs an even patch size from 4 to 32, not {patch}")
    widths = (3, *WIDTHS[: len(strides) - 1], dim)
    layers: list[nn.Module] = []
    for i, ((before, after), stride) in enumerate(zip(pairwise(widths), strides, strict=True)):
        kernel, padding = (7, 3) if i == 0 else (3, 1) if stride == 2 else (stride, 0)
        layers += [nn.Conv2d(before, after, kernel, stride=stride, padding=padding, bias=False), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class MeanProjection(nn.Module):
    """The mean of a ViT's patch projection and a convolutional stem, in the place of the projection.

    Args:
        patch: The projection of the ViT, a convolution with kernel = stride = patch size.
        stem: What gives the same grid and width.
    """

    def __init__(self, patch: nn.Conv2d, stem: nn.Module) -> None:
        super().__init__()
        self.patch = patch
        self.stem = stem

    def forward(self, images: Tensor) -> Tensor:
        """Return (B, D, h, w) of (B, 3, H, W)."""
        mean: Tensor = (self.patch(images) + self.stem(images)) / 2
        return mean


@BACKBONES.register("conv-stem")
class ConvStem(Backbone):
    """A timm ViT with dropout, and a convolutional stem averaged with its patch embedding (PuXIM's encoder).

    Args:
        model: The timm name of a ViT.
        pretrained: Load timm's weights into the ViT (needs the network once). The stem starts from random weights.
        weights: A local file with the ViT's weights instead.
        image_size: Side of the input in pixels; None: the model's own.
        dropout: In training: after the position embedding, each attention and both layers of each MLP.
        eps: Of the LayerNorms; timm's ViTs have 1e-6.
    """

    def __init__(
        self,
        model: str = "vit_base_patch16_224",
        pretrained: bool = False,
        weights: str | None = None,
        image_size: Count | None = None,
        dropout: Ratio = 0.1,
        eps: Positive = 1e-5,
    ) -> None:
        super().__init__()
        self.vit = TimmBackbone(model, pretrained, weights, image_size)
        for name, module in self.vit.named_modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = eps
            if isinstance(module, nn.Dropout) and not name.endswith(("attn_drop", "head_drop")):
                module.p = dropout
        embed = getattr(self.vit.net, "patch_embed", None)
        projection = getattr(embed, "proj", None)
        if embed is None or not self.vit.is_vit or not isinstance(projection, nn.Conv2d):
            raise ZsbirError(
                f"the backbone 'conv-stem' needs a timm ViT with a patch embedding, not {model!r}: use "
                "'vit_base_patch16_224', or the model without the stem"
            )
        embed.proj = MeanProjection(projection, conv_stem(projection.out_channels, projection.kernel_size[0]))
        self.dim, self.grid, self.image_size = self.vit.dim, self.vit.grid, self.vit.image_size
        self.mean, self.std = self.vit.mean, self.vit.std

    def forward(self, images: Tensor) -> Features:
        """Return class token (B, D), patch tokens (B, N, D) and grid of (B, 3, H, W) float32 normalised images."""
        return self.vit(images)

    def with_attention(self, images: Tensor) -> Features:
        """Return the features with the class token's attention in the last block."""
        return self.vit.with_attention(images)
