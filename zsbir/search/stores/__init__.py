"""Stores: where an index keeps its vectors, and how it finds the nearest ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zsbir.registry import Registry

if TYPE_CHECKING:
    from zsbir.search.stores.base import Store

STORES: Registry[Store] = Registry("store", __name__, "zsbir.search.stores.base:Store")
"""All vector stores by name."""
