"""The tables of `real.py`, of the runs that are there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from _results import table

from zsbir.evaluation.statistics import randomisation_p

T95 = {3: 4.303, 4: 3.182, 5: 2.776}  # Student's t, two-sided, by number of seeds
Runs = dict[tuple[str, str], list[dict[str, Any]]]


def mean(runs: list[dict[str, Any]], protocol: str) -> str:
    """Return the mean mAP@all over the seeds, and half its 95 % interval."""
    values = np.array([run["scores"][protocol]["mAP@all"] for run in runs])
    text = f"{values.mean():.3f}"
    if len(values) in T95 and values.std():
        return text + f" ± {T95[len(values)] * values.std(ddof=1) / len(values) ** 0.5:.3f}"
    return text + (f" ({len(values)} seed{'s' * (len(values) > 1)})" if runs[0]["recipe"] else "")


def arrow(runs: list[dict[str, Any]], baseline: list[dict[str, Any]]) -> str:
    """Return which way the paired test over the queries says that a row differs from another."""
    ours, theirs = (np.mean([run["average_precision"] for run in side], axis=0) for side in (runs, baseline))
    difference = ours - theirs
    p = randomisation_p(difference, np.full(len(difference), 1 / len(difference)))
    return "" if p >= 0.01 else " ↑" if difference.mean() > 0 else " ↓"


def main(runs: Runs, rows: Iterable[str], columns: Sequence[str], baseline: str) -> str:
    """Return methods and baselines by dataset and protocol."""
    lines = []
    for name in rows:
        cells = []
        for column in columns:
            found, base = runs.get((name, column)), runs.get((baseline, column))
            if not found:
                cells += ["not measured"] * 2
                continue
            paper = found[0]["protocol"]
            differs = arrow(found, base) if base and name != baseline else ""
            cells += [mean(found, "standard") + differs, f"{mean(found, paper)} ({paper})"]
        lines.append([name, *cells])
    head = ["unseen mAP@all", *(f"{column}, {kind}" for column in columns for kind in ("standard", "paper's"))]
    return table(head, lines) + (
        "\nLite0 at 224 px. ± is half the 95 % t interval over three seeds; arrows: better or worse than "
        f"{baseline!r}, paired randomisation test over the queries (mean over the seeds), p < 0.01.\n"
    )


def changed(runs: Runs, rows: Iterable[str], column: str) -> str:
    """Return what one change does to a method, on one dataset."""
    lines = []
    for name in rows:
        found, base = runs.get((name, column)), runs.get((name.partition(",")[0], column))
        if found and base:
            lines.append([name, mean(base, "standard"), mean(found, "standard") + arrow(found, base[: len(found)])])
    note = f"\nmAP@all on {column}, `standard`; arrows: against the method as it is, on the same seeds.\n"
    return "\n" + table(["one thing changed", "as it is", "changed"], lines) + note


def otherwise(runs: Runs, rows: Sequence[str], columns: Sequence[str]) -> str:
    """Return figures of the same embeddings otherwise, by dataset; of the first also the fine-grained ones."""
    text = "\nThe same embeddings aligned, matched and searched otherwise: mAP@all, `standard`, mean over the seeds.\n"
    text += "".join("\n" + _parts(runs, rows, column, OTHERWISE) for column in columns)
    return text + "\nThe very photo that a sketch was drawn from:\n\n" + _parts(runs, rows, columns[0], EXACT)


def _parts(runs: Runs, rows: Iterable[str], column: str, wanted: Mapping[str, str]) -> str:
    lines = []
    for name in rows:
        found = [run for run in runs.get((name, column), []) if run["parts"]]
        if found:
            values = [{**run["parts"], "as they are": run["scores"]["standard"]["mAP@all"]} for run in found]
            lines.append([name, *(f"{np.mean([value[part] for value in values]):.3f}" for part in wanted)])
    return table([column, *wanted.values()], lines)


OTHERWISE = {
    "as they are": "as they are", "means removed": "means removed", "means and deviations": "means and deviations",
    "one-to-many, K the number of classes": "one-to-many, true K", "one-to-many": "one-to-many, K chosen",
    "generalised": "generalised",
}  # fmt: skip
EXACT = {
    "acc@1 across categories": "acc@1 among all", "acc@10 across categories": "acc@10 among all",
    "chance across categories": "chance, acc@1", "acc@1 within category": "acc@1 in its class",
    "acc@5 within category": "acc@5 in its class", "chance within category": "chance, acc@1",
}  # fmt: skip
