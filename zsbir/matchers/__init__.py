"""Matchers: scores of query embeddings against a gallery."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zsbir.registry import Registry

if TYPE_CHECKING:
    from zsbir.matchers.base import Matcher

MATCHERS: Registry[Matcher] = Registry("matcher", __name__, "zsbir.matchers.base:Matcher")
"""All matchers by name."""
