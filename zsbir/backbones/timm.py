"""Any timm model as a backbone."""

from __future__ import annotations

import inspect
import sys
from dataclasses import replace
from typing import Any, Literal, Self

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zsbir.arguments import Count
from zsbir.backbones import BACKBONES
from zsbir.backbones.base import Backbone
from zsbir.backbones.weights import fetch, load_weights, wanted
from zsbir.errors import ZsbirError
from zsbir.registry import close_matches
from zsbir.types import Features

POOLED = 3
"""How many of the last stages ``pool="stages"`` takes."""


@BACKBONES.register("timm")
class TimmBackbone(Backbone):
    """Any timm model by its name: convolutional nets and vision transformers.

    Args:
        model: The timm name, such as ``"vit_tiny_patch16_224"`` or ``"densenet121"``.
        pretrained: Load timm's pretrained weights (needs the network once).
        weights: A local file with the weights instead.
        image_size: Side of the input in pixels; None: the model's own. ViTs get interpolated position embeddings.
        pool: How the vector is made: ``"model"`` (the model's own input to its classifier: class token or average),
            ``"max"`` or ``"avg"`` over all tokens, or ``"stages"`` (EfficientNets): the averages of the last three
            stages' maps side by side, which know more of unseen classes than the last alone. The tokens are likewise.
        last_relu: False: the features of a DenseNet end in its last BatchNorm, as torchvision's do.
        classifier: Keep the pretrained classifier as `head`; `forward` does not use it.

    The tokens are the patch tokens of a ViT after its last norm, or the last feature map of a convolutional net; the
    grid is theirs.
    """

    def __init__(
        self,
        model: str = "resnet18",
        pretrained: bool = False,
        weights: str | None = None,
        image_size: Count | None = None,
        pool: Literal["model", "max", "avg", "stages"] = "model",
        last_relu: bool = True,
        classifier: bool = False,
    ) -> None:
        super().__init__()
        if not timm.is_model(model.split(".")[0]):
            raise ZsbirError(f"timm has no model {model!r}. {close_matches(model, timm.list_models())}")
        options: dict[str, Any] = {} if classifier else {"num_classes": 0}
        if image_size is not None and _takes_image_size(model):
            options["img_size"] = image_size
        self.net: Any = (
            fetch(lambda: timm.create_model(model, pretrained=True, **options), f"timm's {model}")
            if wanted(pretrained) and weights is None
            else timm.create_model(model, **options)
        )
        if weights is not None:
            load_weights(self.net, weights, skip=() if classifier else ("head.", "fc.", "classifier."))
        if not last_relu:
            last = getattr(getattr(self.net, "features", None), "norm5", None)
            if last is None:
                raise ZsbirError(f"last_relu=False is for DenseNets, not for timm's {model}")
            last.act = nn.Identity()
        config: Any = self.net.pretrained_cfg
        self.image_size: int = image_size or config["input_size"][-1]
        self.mean, self.std, self.pool = tuple(config["mean"]), tuple(config["std"]), pool
        self.is_vit = hasattr(self.net, "patch_embed") and hasattr(self.net, "num_prefix_tokens")
        self.stages = len(self._parts())
        if pool == "stages" and not self.stages:
            raise ZsbirError(f"pool='stages' needs a net of the EfficientNet family, not {model!r}")
        example = self.example()
        self.dim, self.grid = example.vector.shape[1], example.grid

    @property
    def head(self) -> Any:
        """The pretrained classifier, if it was kept."""
        return self.net.get_classifier()

    def _parts(self) -> list[nn.Module]:
        """Return the stages of an EfficientNet, which make up its ``forward_features``; nothing for other nets."""
        net = self.net
        if not all(hasattr(net, name) for name in ("conv_stem", "bn1", "blocks", "conv_head", "bn2")):
            return []
        return [nn.Sequential(net.conv_stem, net.bn1), *net.blocks, nn.Sequential(net.conv_head, net.bn2)]

    def train_last(self, count: int) -> None:
        """Let only the last `count` stages train, 0: none; frozen stages stay in evaluation mode."""
        super().train_last(count)
        for part in self._parts()[self.frozen :]:
            part.requires_grad_(True)

    def train(self, mode: bool = True) -> Self:
        """Switch the mode, but not that of the frozen stages."""
        super().train(mode)
        for part in self._parts()[: self.frozen]:
            part.eval()
        return self

    def frozen_state(self) -> dict[str, Tensor]:
        """Return the weights that `lower` uses, by name."""
        return super().frozen_state() if self.frozen == (self.stages or 1) else self._below().state_dict()

    def lower(self, images: Tensor) -> Tensor:
        """Return the output of the frozen stages for (B, 3, H, W) float32 normalised images."""
        output: Tensor = super().lower(images) if self.frozen == (self.stages or 1) else self._below()(images)
        return output

    def _below(self) -> nn.Sequential:
        return nn.Sequential(*self._parts()[: self._cut])

    @property
    def _cut(self) -> int:
        """How many stages `lower` runs: the frozen ones below those whose maps are pooled."""
        return min(self.frozen, self.stages - POOLED + 1) if self.pool == "stages" else self.frozen

    def forward(self, images: Tensor) -> Features:
        """Return vector, tokens and grid of (B, 3, H, W) float32 normalised images, or of the output of `lower`."""
        parts = self._parts()
        if not parts:
            return self.features_from(self.net.forward_features(images))
        start = 0 if images.shape[1] == 3 else self._cut
        maps = [images]
        for part in parts[start:]:
            maps.append(part(maps[-1]))
        if self.pool != "stages":
            return self.features_from(maps[-1])
        grid: tuple[int, int] = (maps[-1].shape[2], maps[-1].shape[3])
        last = [F.adaptive_avg_pool2d(one, grid) for one in maps[-POOLED:]]
        tokens = torch.cat(last, dim=1).flatten(2).transpose(1, 2)
        return Features(tokens.mean(dim=1), tokens, grid)

    def features_from(self, raw: Tensor) -> Features:
        """Turn what timm's ``forward_features`` returned into `Features`."""
        if self.is_vit and raw.ndim == 3:
            tokens = raw[:, self.net.num_prefix_tokens :]
            grid: tuple[int, int] = tuple(self.net.patch_embed.grid_size)
        elif raw.ndim == 4:
            # Swin and similar nets give (B, h, w, C).
            maps = raw.permute(0, 3, 1, 2) if raw.shape[-1] == self.net.num_features else raw
            tokens, grid = maps.flatten(2).transpose(1, 2), (maps.shape[2], maps.shape[3])
        else:
            return Features(self.net.forward_head(raw, pre_logits=True))
        if self.pool == "max":
            return Features(tokens.amax(dim=1), tokens, grid)
        if self.pool == "avg":
            return Features(tokens.mean(dim=1), tokens, grid)
        return Features(self.net.forward_head(raw, pre_logits=True).flatten(1), tokens, grid)

    def with_attention(self, images: Tensor) -> Features:
        """Return the features and the class token's attention to each patch, mean over heads, in the last block."""
        attention = getattr(self.net.blocks[-1], "attn", None) if self.is_vit else None
        if attention is None or not self.net.num_prefix_tokens:
            return super().with_attention(images)
        seen: list[Tensor] = []

        def keep(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            seen.append(_class_attention(module, inputs[0])[:, self.net.num_prefix_tokens :])

        handle = attention.register_forward_pre_hook(keep)
        try:
            features = self.forward(images)
        finally:
            handle.remove()
        return replace(features, attention=seen[0])


def _class_attention(attention: Any, x: Tensor) -> Tensor:
    """Return (B, tokens): softmax(q·k) of the class token (row 0), mean over heads, of a timm attention module."""
    b, n, _ = x.shape
    qkv = attention.qkv(x).reshape(b, n, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
    q, k = attention.q_norm(qkv[0]), attention.k_norm(qkv[1])
    weights: Tensor = F.softmax((q[:, :, :1] * attention.scale) @ k.transpose(-2, -1), dim=-1)
    return weights.mean(dim=1)[:, 0]


def _takes_image_size(model: str) -> bool:
    module = sys.modules[timm.model_entrypoint(model.split(".")[0]).__module__]
    family = getattr(module, "VisionTransformer", None) or getattr(module, "SwinTransformer", None)
    return family is not None and "img_size" in inspect.signature(family).parameters
