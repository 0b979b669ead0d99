"""Backbones: images to features. Any timm model name is a backbone too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from zsbir.registry import Registry

if TYPE_CHECKING:
    from zsbir.backbones.base import Backbone


def _timm_name(name: str) -> Mapping[str, Any] | None:
    import timm

    return {"name": "timm", "model": name} if timm.is_model(name.split(".")[0]) else None


def _timm_names() -> list[str]:
    import timm

    return list(timm.list_models())


BACKBONES: Registry[Backbone] = Registry(
    "backbone", __name__, "zsbir.backbones.base:Backbone", fallback=_timm_name, more_names=_timm_names
)
"""All backbones by name; any other timm model name builds the entry ``timm``."""
