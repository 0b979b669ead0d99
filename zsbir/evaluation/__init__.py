"""Evaluation: protocols, metrics, the evaluator and its reports.

Everything is imported on first use; ``zsbir.evaluation.protocols`` alone loads no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zsbir.evaluation.embeddings import load_embeddings as load_embeddings
    from zsbir.evaluation.embeddings import save_embeddings as save_embeddings
    from zsbir.evaluation.evaluator import Evaluator as Evaluator
    from zsbir.evaluation.protocols import PROTOCOLS as PROTOCOLS
    from zsbir.evaluation.protocols import Protocol as Protocol
    from zsbir.evaluation.report import Report as Report
    from zsbir.evaluation.scoring import evaluate_embeddings as evaluate_embeddings
    from zsbir.evaluation.scoring import evaluate_scores as evaluate_scores

_WHERE = {
    "PROTOCOLS": "protocols",
    "Protocol": "protocols",
    "Evaluator": "evaluator",
    "Report": "report",
    "evaluate_embeddings": "scoring",
    "evaluate_scores": "scoring",
    "load_embeddings": "embeddings",
    "save_embeddings": "embeddings",
}

__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
