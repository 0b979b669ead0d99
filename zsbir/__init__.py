"""Zero-shot sketch-based image retrieval: find photos by drawing, for categories never seen in training.

>>> import zsbir
>>> method = zsbir.build("dann", backbone="tiny")
>>> sorted(zsbir.list())
['backbones', 'datasets', 'maskers', 'matchers', 'methods', 'protocols', 'stores']

Everything below is imported on first use: ``import zsbir`` loads no torch.
"""

from __future__ import annotations

import ast
import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zsbir.backbones import BACKBONES as BACKBONES
    from zsbir.backbones.base import Backbone as Backbone
    from zsbir.data import DATASETS as DATASETS
    from zsbir.data.base import Dataset as Dataset
    from zsbir.data.preprocess import Preprocess as Preprocess
    from zsbir.engine.speed import Speed as Speed
    from zsbir.engine.trainer import Trainer as Trainer
    from zsbir.errors import ZsbirError as ZsbirError
    from zsbir.evaluation.evaluator import Evaluator as Evaluator
    from zsbir.evaluation.protocols import PROTOCOLS as PROTOCOLS
    from zsbir.evaluation.protocols import Protocol as Protocol
    from zsbir.evaluation.report import Report as Report
    from zsbir.maskers import MASKERS as MASKERS
    from zsbir.maskers.base import Masker as Masker
    from zsbir.maskers.base import MaskRequest as MaskRequest
    from zsbir.matchers import MATCHERS as MATCHERS
    from zsbir.matchers.base import Matcher as Matcher
    from zsbir.methods import METHODS as METHODS
    from zsbir.methods.base import Method as Method
    from zsbir.methods.base import Recipe as Recipe
    from zsbir.methods.base import load as load
    from zsbir.methods.embedding import embed as embed
    from zsbir.methods.embedding import embed_split as embed_split
    from zsbir.registry import Table
    from zsbir.registry import import_file as import_file
    from zsbir.search.index import Index as Index
    from zsbir.search.stores import STORES as STORES
    from zsbir.search.stores.base import Store as Store
    from zsbir.types import Batch as Batch
    from zsbir.types import Embeddings as Embeddings
    from zsbir.types import Features as Features
    from zsbir.types import Records as Records
    from zsbir.types import Split as Split

__version__ = "0.1.0"

# Name to module, as the imports for type checkers above say it.
_WHERE = {
    alias.name: node.module
    for block in ast.parse(Path(__file__).read_text(encoding="utf-8")).body
    for node in getattr(block, "body", ())
    if isinstance(block, ast.If) and isinstance(node, ast.ImportFrom)
    for alias in node.names
    if alias.asname
}

# Without `list`: `from zsbir import *` must not hide the builtin.
__all__ = ["__version__", "build", *sorted(_WHERE)]


def build(spec: str | dict[str, Any] | Method, **overrides: Any) -> Method:
    """Build a method by name, ready to train or to embed: ``zsbir.build("dann", backbone="resnet50", margin=0.5)``.

    ``zsbir.list()["methods"]`` has the names, and ``help(zsbir.METHODS.get("dann"))`` a method's arguments with their
    defaults. Datasets, backbones, maskers, matchers and stores are built in the same way by their registries, such as
    ``zsbir.DATASETS.build("openmoji")``.

    Args:
        spec: A method's name, a mapping ``{"name": ..., argument: value}``, or a ready method, which is returned.
        **overrides: Constructor arguments. A component is given by name, mapping or instance:
            ``masker={"name": "random", "ratio": 0.5}``.

    Returns:
        zsbir.methods.base.Method: With random weights, unless ``pretrained=True`` or ``weights=FILE`` is given.

    Raises:
        ZsbirError: For an unknown name or argument, with the close matches, or a value that an argument cannot have.
    """
    from zsbir.methods import METHODS

    return METHODS.build(spec, **overrides)


def list() -> Table:
    """Return a table of every registry's names with a line on each, plugins included; imports none of them.

    Returns:
        zsbir.registry.Table: A mapping ``{"methods": {"dann": "Two towers, ...", ...}, "datasets": ..., ...}``.
    """
    from zsbir.registry import Table

    kinds = ("methods", "datasets", "backbones", "maskers", "matchers", "protocols", "stores")
    return Table((kind, __getattr__(kind.upper()).describe()) for kind in kinds)


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(importlib.import_module(str(_WHERE[name])), name)
    raise AttributeError(f"module 'zsbir' has no attribute {name!r}")


def __dir__() -> Any:
    return sorted([*__all__, "list"])
