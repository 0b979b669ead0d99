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
from zsbir.evaluation.statistics import OVER, bootstrap, randomisation_p
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
        paths = tuple(map(str, about["paths"])) or tuple(map(str, arrays["query"].tolist()))
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
class Comparison:
    """Two systems on the same queries.

    Attributes:
        first: Mean of the first.
        second: Mean of the second.
        difference: Second less first.
        interval: 95 % bootstrap interval of the difference, over queries.
        class_interval: Likewise over classes.
        p: Two-sided p of the paired randomisation test.
        classes: Mean difference by class.
        queries: How many queries both have.
        notes: What limits the comparison.
    """

    first: float
    second: float
    difference: float
    interval: tuple[float, float]
    class_interval: tuple[float, float]
    p: float
    classes: dict[str, float]
    queries: int
    notes: tuple[str, ...]


def compare_saved(
    first: SavedQueries,
    second: SavedQueries,
    protocol: str = "standard",
    metric: str = "mAP@all",
    permutations: int = 10_000,
    resamples: int = 1000,
    seed: int = 0,
) -> Comparison:
    """Compare two saved evaluations query by query; queries are matched by class and file.

    Raises:
        ZsbirError: For settings out of range, or if a side lacks the protocol or metric, or no query is in both.
    """
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
    places = [
        {(side.classes[label], path): i for i, (label, path) in enumerate(zip(side.labels, side.paths, strict=True))}
        for side in (first, second)
    ]
    common = [key for key in places[0] if key in places[1]]
    if not common:
        raise ZsbirError("the two runs have no query in common: they were evaluated on different data")
    left, right = ([place[key] for key in common] for place in places)
    values = first.values[protocol][metric][left], second.values[protocol][metric][right]
    labels, average, difference = first.labels[left], first.averages[protocol], values[1] - values[0]
    present, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
    weights = 1 / (len(counts) * counts[inverse]) if average == "class" else np.full(len(labels), 1 / len(labels))
    means = [float(weights @ side) for side in (*values, difference)]
    drawn = [bootstrap({"": difference}, labels, average, over, resamples, seed=seed)[""] for over in OVER]
    notes = []
    if len(common) < max(map(len, places)):
        notes.append(f"only {len(common)} queries are in both runs, which have {len(places[0])} and {len(places[1])}")
    if first.setting != second.setting:
        notes.append(f"the settings differ: {first.setting} and {second.setting}")
    return Comparison(
        first=means[0],
        second=means[1],
        difference=means[2],
        interval=drawn[0],
        class_interval=drawn[1],
        p=randomisation_p(difference, weights, permutations, seed),
        classes={first.classes[c]: float(difference[labels == c].mean()) for c in present},
        queries=len(common),
        notes=tuple(notes),
    )


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

    def summed(values: list[float]) -> dict[str, Any]:
        return {"mean": float(np.mean(values)), "sd": float(np.std(values, ddof=1)), "values": values}

    return {
        protocol: {metric: summed([run[protocol][metric] for run in results]) for metric in metrics}
        for protocol, metrics in shape[0].items()
    }
