"""Maskers: which patches of a photo to keep.

A module without an underscore is a masker, except for `base` (the contract), `quality`, `picture` and `store`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zsbir.registry import Registry

if TYPE_CHECKING:
    from zsbir.maskers.base import Masker

MASKERS: Registry[Masker] = Registry("masker", __name__, "zsbir.maskers.base:Masker")
"""All maskers by name."""
