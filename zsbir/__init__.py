"""Zero-shot sketch-based image retrieval: find photos by drawing, for categories never seen in training.

>>> import zsbir
>>> method = zsbir.build("dann", backbone="tiny")
>>> sorted(zsbir.list())
['backbones', 'datasets', 'maskers', 'matchers', 'methods', 'protocols']

Everything below is imported on first use: ``import zsbir`` loads no torch.
"""

from __future__ import annotations

import importlib
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zsbir.backbones import BACKBONES as BACKBONES
    from zsbir.data import DATASETS as DATASETS
    from zsbir.engine.trainer import Trainer as Trainer
    from zsbir.errors import ZsbirError as ZsbirError
    from zsbir.evaluation.evaluator import Evaluator as Evaluator
    from zsbir.evaluation.protocols import PROTOCOLS as PROTOCOLS
    from zsbir.maskers import MASKERS as MASKERS
    from zsbir.matchers import MATCHERS as MATCHERS
    from zsbir.methods import METHODS as METHODS
    from zsbir.methods.base import Recipe as Recipe
    from zsbir.methods.saving import load as load
    from zsbir.search.index import Index as Index
    from zsbir.types import Embeddings as Embeddings

__version__ = version("zsbir")

_WHERE = {
    "BACKBONES": "zsbir.backbones",
    "DATASETS": "zsbir.data",
    "MASKERS": "zsbir.maskers",
    "MATCHERS": "zsbir.matchers",
    "Index": "zsbir.search.index",
    "METHODS": "zsbir.methods",
    "PROTOCOLS": "zsbir.evaluation.protocols",
    "Embeddings": "zsbir.types",
    "Evaluator": "zsbir.evaluation.evaluator",
    "Recipe": "zsbir.methods.base",
    "Trainer": "zsbir.engine.trainer",
    "ZsbirError": "zsbir.errors",
    "load": "zsbir.methods.saving",
}

__all__ = ["__version__", "build", "list", *sorted(_WHERE)]


def build(spec: Any, **overrides: Any) -> Any:
    """Build a method by name, ready to train or to embed.

    Args:
        spec: A method's name, or a mapping ``{"name": ..., argument: value}``.
        **overrides: Constructor arguments. A component is given by name, mapping or instance:
            ``masker={"name": "random", "ratio": 0.5}``.

    Returns:
        zsbir.methods.base.Method: With random weights, unless ``pretrained=True`` or ``weights=FILE`` is given.

    Raises:
        ZsbirError: For an unknown name or argument, with the close matches.
    """
    from zsbir.methods import METHODS

    return METHODS.build(spec, **overrides)


def list() -> dict[str, dict[str, str]]:
    """Return every registry's names with a line on each, plugins included; imports none of them."""
    from zsbir.backbones import BACKBONES
    from zsbir.data import DATASETS
    from zsbir.evaluation.protocols import PROTOCOLS
    from zsbir.maskers import MASKERS
    from zsbir.matchers import MATCHERS
    from zsbir.methods import METHODS

    registries = (METHODS, DATASETS, BACKBONES, MASKERS, MATCHERS, PROTOCOLS)
    return {f"{registry.kind}s": registry.describe() for registry in registries}


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(importlib.import_module(_WHERE[name]), name)
    raise AttributeError(f"module 'zsbir' has no attribute {name!r}")


def __dir__() -> Any:
    return sorted(__all__)
