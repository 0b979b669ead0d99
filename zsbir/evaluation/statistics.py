"""Bootstrap intervals, and the paired randomisation test between two systems."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import numpy.typing as npt

from zsbir.arguments import Count, Natural, checked
from zsbir.evaluation.protocols import Average
from zsbir.types import Labels

Floats = npt.NDArray[np.float64]
Over = Literal["queries", "classes"]
OVER: tuple[Over, Over] = ("queries", "classes")
"""What intervals are over."""

_BLOCK = 1 << 22  # resampled weights held at once: 32 MB


@checked("bootstrap")
def bootstrap(
    values: Mapping[str, Floats],
    labels: Labels,
    average: Average,
    over: Over = "queries",
    resamples: Count = 1000,
    seed: Natural = 0,
) -> dict[str, tuple[float, float]]:
    """Return 95 % percentile intervals of the means of several metrics.

    Resampling queries answers "other sketches of the same classes"; resampling classes "other unseen classes", which
    is wider and what a zero-shot claim is about.

    Args:
        values: By metric, (q,) per-query values.
        labels: (q,) class of each query.
        average: How the protocol takes the mean; classes that a resample of the queries misses do not count in it.
        over: What is drawn with replacement.
        resamples: How many draws.
        seed: Seed of the draws; metrics of one call share them.

    Returns:
        By metric, (low, high).

    Raises:
        ZsbirError: For an argument out of range.
    """
    generator = np.random.default_rng(seed)
    _, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
    by_class = np.argsort(inverse, kind="stable")
    matrix = np.stack([np.asarray(v, dtype=np.float64)[by_class] for v in values.values()], axis=1)
    starts = np.cumsum(counts) - counts
    means: list[Floats] = []
    step = max(1, _BLOCK // len(labels))
    for begin in range(0, resamples, step):
        draws = min(step, resamples - begin)
        if over == "classes":
            sums = np.add.reduceat(matrix, starts, axis=0)
            means.append(_class_draws(generator, draws, sums, counts, average))
        else:
            means.append(_query_draws(generator, draws, matrix, starts, average))
    tail = (1 - 0.95) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail], axis=0).tolist()
    return dict(zip(values, zip(low, high, strict=True), strict=True))


def _class_draws(generator: np.random.Generator, draws: int, sums: Floats, counts: Labels, average: Average) -> Floats:
    times = generator.multinomial(len(counts), np.full(len(counts), 1 / len(counts)), size=draws).astype(np.float64)
    if average == "class":
        return np.asarray(times @ (sums / counts[:, None]) / len(counts))
    return np.asarray(times @ sums / (times @ counts)[:, None])


def _query_draws(
    generator: np.random.Generator, draws: int, matrix: Floats, starts: Labels, average: Average
) -> Floats:
    total = len(matrix)
    times = np.stack([np.bincount(generator.integers(0, total, total), minlength=total) for _ in range(draws)])
    if average == "query":
        return np.asarray(times @ matrix / total)
    drawn = np.add.reduceat(times, starts, axis=1)
    sums = (np.add.reduceat(times * column, starts, axis=1) for column in matrix.T)
    means = [(some / np.maximum(drawn, 1)).sum(axis=1) / (drawn > 0).sum(axis=1) for some in sums]
    return np.stack(means, axis=1)


@checked("randomisation")
def randomisation_p(difference: Floats, weights: Floats, permutations: Count = 10_000, seed: Natural = 0) -> float:
    """Return the two-sided p of the hypothesis that the two systems are exchangeable query by query.

    Fisher's paired randomisation test (Smucker et al., CIKM 2007): the sign of each query's difference is drawn at
    random, and p is the share of draws whose mean is at least as far from 0 as the one seen. The observed draw counts
    too, so p is never 0.

    Args:
        difference: (q,) second less first.
        weights: (q,) weight of each query in the mean.
        permutations: How many draws.
        seed: Their seed.
    """
    weighted = difference * weights
    seen = abs(weighted.sum())
    generator = np.random.default_rng(seed)
    step = max(1, _BLOCK // max(1, len(weighted)))
    extreme = 0
    for begin in range(0, permutations, step):
        draws = min(step, permutations - begin)
        bits = generator.integers(0, 256, size=(draws, -(-len(weighted) // 8)), dtype=np.uint8)
        positive = np.unpackbits(bits, axis=1, count=len(weighted))
        # The sum with signs is twice the sum of the positive ones less the whole.
        sums = 2 * (positive @ weighted) - weighted.sum()
        extreme += int((np.abs(sums) >= seen - 1e-12).sum())
    return (extreme + 1) / (permutations + 1)
