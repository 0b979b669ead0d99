"""Everything that can be built by name."""

from __future__ import annotations

import json as json_module


def listing(json: bool = False) -> None:
    """List methods, datasets, backbones, maskers, matchers and protocols, plugins included.

    Args:
        json: Print JSON.
    """
    import zsbir

    found = zsbir.list()
    if json:
        print(json_module.dumps(found, indent=1))
        return
    width = max(len(name) for names in found.values() for name in names) + 2
    for kind, names in found.items():
        print(kind)
        for name, summary in names.items():
            print(f"  {name:<{width}}{summary}")
    print("\nAny timm model name is a backbone too.")
