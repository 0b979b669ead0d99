"""How sure a number is: bootstrap intervals, and the paired randomisation test between two systems."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from zsbir.errors import ZsbirError
from zsbir.evaluation.protocols import Average
from zsbir.types import Labels

Floats = npt.NDArray[np.float64]

_BLOCK = 1 << 22  # resampled weights held at once: 32 MB


def bootstrap(
    values: Mapping[str, Floats],
    labels: Labels,
    average: Average,
    over: Literal["queries", "classes"] = "queries",
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Return percentile intervals of the means of several metrics.

    Resampling queries answers "other sketches of the same classes"; resampling classes "other unseen classes", which
    is wider and what a zero-shot claim is about.

    Args:
        values: By metric, (q,) per-query values.
        labels: (q,) class of each query.
        average: How the protocol takes the mean; classes that a resample of the queries misses do not count in it.
        over: What is drawn with replacement.
        resamples: How many draws.
        level: Coverage, in (0, 1).
        seed: Seed of the draws; metrics of one call share them.

    Returns:
        By metric, (low, high).

    Raises:
        ZsbirError: If `resamples` is below 1 or `level` not inside (0, 1).
    """
    if resamples < 1 or not 0 < level < 1:
        raise ZsbirError(f"a bootstrap needs resamples >= 1 and 0 < level < 1, not {resamples} and {level}")
    generator = np.random.default_rng(seed)
    _, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
    by_class = np.argsort(inverse, kind="stable")
    matrix = np.stack([np.asarray(v, dtype=np.float64)[by_class] for v in values.values()], axis=1)
    starts = np.cumsum(counts) - counts
    sums = np.add.reduceat(matrix, starts, axis=0)
    means: list[Floats] = []
    step = max(1, _BLOCK // len(labels))
    for begin in range(0, resamples, step):
        draws = min(step, resamples - begin)
        if over == "classes":
            means.append(_class_draws(generator, draws, sums, counts, average))
        else:
            means.append(_query_draws(generator, draws, matrix, starts, average))
    tail = (1 - level) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail], axis=0)
    return {name: (float(low[i]), float(high[i])) for i, name in enumerate(values)}


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
    present = np.maximum(drawn, 1)
    means = [
        (np.add.reduceat(times * column, starts, axis=1) / present).sum(axis=1) / (drawn > 0).sum(axis=1)
        for column in matrix.T
    ]
    return np.stack(means, axis=1)


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
    """

    first: float
    second: float
    difference: float
    interval: tuple[float, float]
    class_interval: tuple[float, float]
    p: float

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {**self.__dict__, "interval": list(self.interval), "class_interval": list(self.class_interval)}


def randomisation_p(difference: Floats, weights: Floats, permutations: int = 10_000, seed: int = 0) -> float:
    """Return the two-sided p of the hypothesis that the two systems are exchangeable query by query.

    Fisher's paired randomisation test (Smucker et al., CIKM 2007): the sign of each query's difference is drawn at
    random, and p is the share of draws whose mean is at least as far from 0 as the one seen. The draw that was seen
    counts, so p is never 0.

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


def compare(
    first: Floats,
    second: Floats,
    labels: Labels,
    average: Average,
    permutations: int = 10_000,
    resamples: int = 1000,
    seed: int = 0,
) -> Comparison:
    """Compare two systems on one metric.

    Args:
        first: (q,) values of the first on the same queries as the second's.
        second: (q,) values of the second.
        labels: (q,) class of each query.
        average: How the protocol takes the mean.
        permutations: Draws of the test.
        resamples: Draws of the intervals.
        seed: Seed of both.
    """
    difference = np.asarray(second, dtype=np.float64) - np.asarray(first, dtype=np.float64)
    if average == "query":
        weights = np.full(len(labels), 1 / len(labels))
    else:
        _, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
        weights = 1 / (len(counts) * counts[inverse])
    data = {"difference": difference}
    return Comparison(
        float(weights @ first),
        float(weights @ second),
        float(weights @ difference),
        bootstrap(data, labels, average, "queries", resamples, seed=seed)["difference"],
        bootstrap(data, labels, average, "classes", resamples, seed=seed)["difference"],
        randomisation_p(difference, weights, permutations, seed),
    )
