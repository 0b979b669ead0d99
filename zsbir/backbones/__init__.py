"""Backbones: images to features. Any timm model name is a backbone too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from zsbir.registry import Registry

if TYPE_CHECKING:
    from zsbir.backbones.base import Backbone


PRESETS: Mapping[str, Mapping[str, Any]] = {
    "clip": {"name": "open-clip", "model": "ViT-B-16-quickgelu", "tag": "openai"},
    "siglip2": {"name": "open-clip", "model": "ViT-B-16-SigLIP2", "tag": "webli"},
    "dinov2": {"name": "timm", "model": "vit_base_patch14_dinov2.lvd142m", "image_size": 224},
    "dinov3": {"name": "timm", "model": "vit_base_patch16_dinov3.lvd1689m", "image_size": 224},
}
"""Short names of the pretrained networks to try first, and what they stand for."""


def _other_name(name: str) -> Mapping[str, Any] | None:
    if name in PRESETS:
        return PRESETS[name]
    import timm

    return {"name": "timm", "model": name} if timm.is_model(name.split(".")[0]) else None


def _other_names() -> list[str]:
    import timm

    return [*PRESETS, *timm.list_models()]


BACKBONES: Registry[Backbone] = Registry(
    "backbone", __name__, "zsbir.backbones.base:Backbone", fallback=_other_name, more_names=_other_names
)
"""All backbones by name; `PRESETS` has short names, and any timm model's name builds the entry ``timm``."""
