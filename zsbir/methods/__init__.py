"""Methods: published systems, assembled by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zsbir.registry import Registry

if TYPE_CHECKING:
    from zsbir.methods.base import Method

METHODS: Registry[Method] = Registry("method", __name__, "zsbir.methods.base:Method")
"""All methods by name."""
