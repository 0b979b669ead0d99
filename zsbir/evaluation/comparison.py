"""Two evaluated runs on the same queries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from zsbir.errors import ZsbirError
from zsbir.evaluation.per_query import SavedQueries
from zsbir.evaluation.statistics import Comparison, compare
from zsbir.registry import close_matches


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
    found = compare(*values, labels, _average(first, protocol), permutations, resamples, seed)
    gains = {first.classes[c]: float((values[1] - values[0])[labels == c].mean()) for c in np.unique(labels)}
    notes = []
    if len(pairs) < max(len(keys[0]), len(keys[1])):
        notes.append(f"only {len(pairs)} queries are in both runs, which have {len(keys[0])} and {len(keys[1])}")
    if first.setting != second.setting:
        notes.append(f"the settings differ: {first.setting} and {second.setting}")
    return RunComparison(found, gains, len(pairs), tuple(notes))


def _keys(side: SavedQueries) -> list[tuple[str, str]]:
    return [(side.classes[label], path) for label, path in zip(side.labels.tolist(), side.paths, strict=True)]


def _average(side: SavedQueries, protocol: str) -> Any:
    return side.averages[protocol]
