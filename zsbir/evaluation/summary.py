"""Several runs of one system: mean and standard deviation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from zsbir.errors import ZsbirError

Results = dict[str, dict[str, float]]


def summarise(results: Sequence[Results]) -> dict[str, dict[str, dict[str, Any]]]:
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


def summary_table(found: dict[str, dict[str, dict[str, Any]]]) -> str:
    """Return the summary as a Markdown table, ``mean ± sd``."""
    metrics = list(dict.fromkeys(metric for values in found.values() for metric in values))
    lines = ["| metric | " + " | ".join(found) + " |", "|---" * (len(found) + 1) + "|"]
    for metric in metrics:
        cells = [f"{v[metric]['mean']:.4f} ± {v[metric]['sd']:.4f}" if metric in v else "–" for v in found.values()]
        lines.append(f"| {metric} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
