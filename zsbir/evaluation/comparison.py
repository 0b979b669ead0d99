"""Evaluations on disk query by query: saved, compared with another, and summed up over runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file, save_file

from zsbir.errors import ZsbirError
from zsbir.evaluation.measure import PerQuery
from zsbir.evaluation.protocols import Average
from zsbir.evaluation.statistics import Comparison, compare
from zsbir.files import read_json, reading
from zsbir.registry import close_matches
from zsbir.types import Labels


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
    averages: dict[str, Average]
    setting: str


def save_per_query(found: PerQuery, folder: Path, **about: Any) -> None:
    """Write ``per_query.safetensors``, and `about` (classes, paths, averages, setting) as ``per_query.json``."""
    arrays: dict[str, npt.NDArray[Any]] = {"query": found.query, "labels": found.labels}
    for protocol, values in found.values.items():
        arrays |= {f"{protocol}/{metric}": np.ascontiguousarray(v) for metric, v in values.items()}
    save_file(arrays, folder / "per_query.safetensors")
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
    with reading("evaluation in", folder):
        arrays = load_file(folder / "per_query.safetensors")
        about = read_json(folder / "per_query.json")
        values: dict[str, dict[str, npt.NDArray[np.float64]]] = {}
        for key, array in arrays.items():
            if "/" in key:
                protocol, metric = key.split("/", 1)
                values.setdefault(protocol, {})[metric] = array
        labels, classes = arrays["labels"], tuple(map(str, about["classes"]))
        paths = tuple(map(str, about["paths"])) or tuple(str(i) for i in arrays["query"].tolist())
        averages: dict[str, Average] = {protocol: about["averages"][protocol] for protocol in values}
        lengths = {len(labels), len(paths), *(len(array) for by in values.values() for array in by.values())}
        if (
            len(lengths) != 1
            or not set(averages.values()) <= set(get_args(Average))
            or not 0 <= labels.min() <= labels.max() < len(classes)
        ):
            raise ValueError("its files do not fit each other")
        return SavedQueries(values, labels, classes, paths, averages, str(about["setting"]))


@dataclass(frozen=True)
class RunComparison:
    """What `compare_saved` found.

    Attributes:
        comparison: Means, difference, intervals and p.
        classes: By class, second less first.
        queries: How many queries both have.
        notes: What limits the comparison.
    """

    comparison: Comparison
    classes: dict[str, float]
    queries: int
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {
            **self.comparison.to_dict(),
            "classes": self.classes,
            "queries": self.queries,
            "notes": list(self.notes),
        }


def compare_saved(
    first: SavedQueries,
    second: SavedQueries,
    protocol: str = "standard",
    metric: str = "mAP@all",
    permutations: int = 10_000,
    resamples: int = 1000,
    seed: int = 0,
) -> RunComparison:
    """Compare two saved evaluations query by query; queries are matched by class and file.

    Raises:
        ZsbirError: For settings out of range, or if a side lacks the protocol or metric, or no query is in both.
    """
    if permutations < 1 or seed < 0:
        raise ZsbirError(
            f"the test needs 1 or more permutations and a seed of 0 or more, not {permutations} and {seed}"
        )
    for side in (first, second):
        if protocol not in side.values:
            raise ZsbirError(
                f"not both runs were evaluated under {protocol!r}. {close_matches(protocol, list(side.values))} "
                "Evaluate both with --protocol."
            )
        if metric not in side.values[protocol]:
            raise ZsbirError(
                f"{protocol!r} has no {metric!r} in both runs. {close_matches(metric, list(side.values[protocol]))}"
            )
    keys = [_keys(first), _keys(second)]
    where = {key: i for i, key in enumerate(keys[1])}
    pairs = [(i, where[key]) for i, key in enumerate(keys[0]) if key in where]
    if not pairs:
        raise ZsbirError("the two runs have no query in common: they were evaluated on different data")
    left, right = (np.array(side) for side in zip(*pairs, strict=True))
    labels = first.labels[left]
    values = first.values[protocol][metric][left], second.values[protocol][metric][right]
    found = compare(*values, labels, first.averages[protocol], permutations, resamples, seed)
    gains = {first.classes[c]: float((values[1] - values[0])[labels == c].mean()) for c in np.unique(labels)}
    notes = []
    if len(pairs) < max(len(keys[0]), len(keys[1])):
        notes.append(f"only {len(pairs)} queries are in both runs, which have {len(keys[0])} and {len(keys[1])}")
    if first.setting != second.setting:
        notes.append(f"the settings differ: {first.setting} and {second.setting}")
    return RunComparison(found, gains, len(pairs), tuple(notes))


def _keys(side: SavedQueries) -> list[tuple[str, str]]:
    return [(side.classes[label], path) for label, path in zip(side.labels.tolist(), side.paths, strict=True)]


def summarise(results: Sequence[dict[str, dict[str, float]]]) -> dict[str, dict[str, dict[str, Any]]]:
    """Return mean, sample standard deviation (n - 1) and the single values of every metric over runs.

    Args:
        results: ``{protocol: {metric: value}}`` of each run, at least two with the same protocols and metrics.

    Raises:
        ZsbirError: If there are fewer than two runs, or they were evaluated differently.

    >>> summarise([{"standard": {"mAP@all": 0.25}}, {"standard": {"mAP@all": 0.75}}])["standard"]["mAP@all"]["mean"]
    0.5
    """
    if len(results) < 2:
        raise ZsbirError("a mean and standard deviation over runs needs at least two runs")
    shape = [{protocol: list(metrics) for protocol, metrics in run.items()} for run in results]
    if any(other != shape[0] for other in shape[1:]):
        raise ZsbirError("the runs were evaluated under different protocols or cut-offs")
    out: dict[str, dict[str, dict[str, Any]]] = {}
    for protocol, metrics in shape[0].items():
        for metric in metrics:
            values = [run[protocol][metric] for run in results]
            spread = float(np.std(values, ddof=1))
            out.setdefault(protocol, {})[metric] = {"mean": float(np.mean(values)), "sd": spread, "values": values}
    return out
