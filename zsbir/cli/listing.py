"""Everything that can be built by name."""

from __future__ import annotations

import json as json_module


def listing(json: bool = False) -> None:
    """List methods, datasets, backbones, maskers, matchers, protocols and stores, plugins included.

    Example: zsbir list --json

    Args:
        json: Print JSON.
    """
    import zsbir

    found = zsbir.list()
    if json:
        print(json_module.dumps(found, indent=1))
        return
    print(f"{found!r}\n\nAny timm model name is a backbone too.")
