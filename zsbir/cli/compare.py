"""Compare two evaluated runs on the same queries."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional

from zsbir.cli._options import at_least
from zsbir.errors import ZsbirError


def compare(
    run_a: Annotated[Path | None, Positional] = None,
    run_b: Annotated[Path | None, Positional] = None,
    protocol: str = "standard",
    metric: str = "mAP@all",
    permutations: int = 10_000,
    resamples: int = 1000,
    seed: int = 0,
    classes: int = 5,
    out: Path | None = None,
) -> None:
    """Say whether the second run is better than the first: difference, interval, p, and the classes that changed most.

    Both must have been evaluated with `zsbir evaluate` on the same sketches; the test is the paired randomisation test
    over queries.

    Example: zsbir compare runs/a runs/b --metric P@100

    Args:
        run_a: An evaluated run, or its evaluation folder.
        run_b: The run to compare it with.
        protocol: A protocol that both were evaluated under.
        metric: A metric that both have, such as mAP@all, mAP@200 or P@100.
        permutations: Draws of the test.
        resamples: Draws of the 95 % intervals.
        seed: Seed of the test and the intervals.
        classes: How many winners and losers to print, each.
        out: A JSON file for the result.
    """
    from dataclasses import asdict

    from zsbir.evaluation.comparison import compare_saved, load_per_query
    from zsbir.files import write_json, writing

    if run_a is None or run_b is None:
        named = "none was" if run_a is None else f"only {run_a} was"
        raise ZsbirError(f"compare takes two evaluated runs, and {named} named: add the other one")
    at_least(classes=(classes, 0))
    found = compare_saved(load_per_query(run_a), load_per_query(run_b), protocol, metric, permutations, resamples, seed)
    for note in found.notes:
        print(f"note: {note}")
    print(f"{metric} ({protocol}) on {found.queries} queries of {len(found.classes)} classes")
    print(f"  {run_a}: {found.first:.4f}")
    print(f"  {run_b}: {found.second:.4f}")
    print(f"  difference {found.difference:+.4f}, p = {found.p:.4g} (paired randomisation test, two-sided)")
    print(f"  95 % interval over queries {found.interval[0]:+.4f} to {found.interval[1]:+.4f}")
    print(f"  95 % interval over classes {found.class_interval[0]:+.4f} to {found.class_interval[1]:+.4f}")
    gains = sorted(found.classes.items(), key=lambda item: -item[1])
    for title, some in (
        ("gained most", [g for g in gains[:classes] if g[1] > 0]),
        ("lost most", [g for g in gains[::-1][:classes] if g[1] < 0]),
    ):
        print(f"  {title}: " + (", ".join(f"{name} {value:+.3f}" for name, value in some) or "none"))
    if out is not None:
        with writing("result", out):
            write_json(out, {"protocol": protocol, "metric": metric, **asdict(found)})
