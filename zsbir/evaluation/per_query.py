"""The metrics of every query on disk, beside a report: what `compare` reads."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from zsbir.errors import ZsbirError
from zsbir.types import Labels

if TYPE_CHECKING:
    from zsbir.evaluation.result import Report


@dataclass(frozen=True, eq=False)
class SavedQueries:
    """The per-query results of a saved report.

    Attributes:
        values: ``{protocol: {metric: (q,) float64}}``.
        labels: (q,) int64, positions in `classes`.
        classes: The class names.
        paths: Files of the queries, or their positions as text where the files are not known.
        averages: By protocol, ``"query"`` or ``"class"``.
        setting: The setting of the report.
    """

    values: dict[str, dict[str, npt.NDArray[np.float64]]]
    labels: Labels
    classes: tuple[str, ...]
    paths: tuple[str, ...]
    averages: dict[str, str]
    setting: str


def save_per_query(report: Report, folder: Path) -> None:
    """Write ``per_query.safetensors`` and ``per_query.json`` beside a report."""
    found = report.per_query
    arrays: dict[str, npt.NDArray[Any]] = {"query": found.query, "labels": found.labels}
    for protocol, values in found.values.items():
        arrays |= {f"{protocol}/{metric}": np.ascontiguousarray(v) for metric, v in values.items()}
    save_file(arrays, folder / "per_query.safetensors")
    about = {
        "classes": list(report.classes),
        "paths": list(report.query_paths),
        "averages": {p.name: p.average for p in report.protocols},
        "setting": report.setting,
    }
    (folder / "per_query.json").write_text(json.dumps(about, ensure_ascii=False) + "\n", encoding="utf-8")


def load_per_query(where: str | Path) -> SavedQueries:
    """Read the per-query results of a report folder, or of a run folder that has one in ``evaluation/``.

    Raises:
        ZsbirError: If there are none.
    """
    folders = [Path(where), Path(where) / "evaluation"]
    folder = next((f for f in folders if (f / "per_query.safetensors").is_file()), None)
    if folder is None:
        raise ZsbirError(f"{where} holds no evaluation: run `zsbir evaluate {where}` first")
    try:
        arrays = load_file(folder / "per_query.safetensors")
        about = json.loads((folder / "per_query.json").read_text(encoding="utf-8"))
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise ZsbirError(f"the evaluation in {folder} cannot be read: {error}") from None
    values: dict[str, dict[str, npt.NDArray[np.float64]]] = {}
    for key, array in arrays.items():
        if "/" in key:
            protocol, metric = key.split("/", 1)
            values.setdefault(protocol, {})[metric] = array
    paths = tuple(about["paths"]) or tuple(str(i) for i in arrays["query"].tolist())
    return SavedQueries(values, arrays["labels"], tuple(about["classes"]), paths, about["averages"], about["setting"])
