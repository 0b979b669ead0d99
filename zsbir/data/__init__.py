"""Datasets: sketches and photos with their seen and unseen classes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zsbir.registry import Registry

if TYPE_CHECKING:
    from zsbir.data.base import Dataset

DATASETS: Registry[Dataset] = Registry("dataset", f"{__name__}.datasets", "zsbir.data.base:Dataset")
"""All datasets by name."""
