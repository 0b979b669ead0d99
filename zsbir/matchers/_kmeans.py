"""k-means in torch (greedy k-means++ start, Lloyd's iterations, scikit-learn's stopping rule), and how many clusters.

The number of clusters is chosen on the gallery without looking at a label.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from zsbir.matchers._mixture import bic, fit_mixture

Rule = Literal["silhouette", "bic"]

SAMPLE = 3000
"""Rows that the number of clusters is chosen on; more change the curves by less than two starts of k-means do."""
STARTS = 3
"""k-means runs for each candidate; the tightest counts."""


class KMeans(NamedTuple):
    """A fitted k-means."""

    centers: Tensor  # (K, d)
    labels: Tensor  # (n,) int64, the nearest centre of each row
    inertia: float  # sum of squared distances to the nearest centre
    iterations: int
    empty: int  # clusters without a row: there are fewer distinct rows than clusters


def nearest(x: Tensor, centers: Tensor, chunk: int = 65536) -> tuple[Tensor, Tensor]:
    """Return (n,) the nearest of (K, d) `centers` to each row of (n, d) `x`, the first of equals, and (n,) ‖x − c‖²."""
    labels, squared = [], []
    half = 0.5 * centers.square().sum(1)
    for rows in x.split(chunk):  # bounds memory to chunk · K
        # ½‖c‖² − x·c orders centres as ‖x − c‖² does; ‖x‖² is added only where it is needed.
        best = torch.addmm(half, rows, centers.T, alpha=-1).min(dim=1)
        labels.append(best.indices)
        squared.append((rows.square().sum(1) + 2 * best.values).clamp_min_(0))
    return torch.cat(labels), torch.cat(squared)


def _plus_plus(x: Tensor, clusters: int, generator: torch.Generator) -> Tensor:
    """Return (K, d) starting centres by greedy k-means++ (Arthur and Vassilvitskii 2007), as scikit-learn does."""
    trials = 2 + int(math.log(clusters))
    squares = x.square().sum(1)

    def distances(rows: Tensor) -> Tensor:
        return (squares + squares[rows, None] - 2 * x[rows] @ x.T).clamp_min_(0)

    chosen = [torch.randint(len(x), (1,), generator=generator).to(x.device)]
    closest = distances(chosen[0])[0]
    for _ in range(clusters - 1):
        cumulative = closest.double().cumsum(0)
        draws = torch.rand(trials, generator=generator, dtype=torch.float64).to(x.device) * cumulative[-1]
        candidates = torch.searchsorted(cumulative, draws).clamp_max_(len(x) - 1)
        after = torch.minimum(closest, distances(candidates))
        best = after.sum(1).argmin()
        chosen.append(candidates[best : best + 1])
        closest = after[best]
    return x[torch.cat(chosen)]


def _means(x: Tensor, labels: Tensor, squared: Tensor, centers: Tensor) -> Tensor:
    """Return the mean of each cluster; an empty one moves to the row furthest from its own."""
    counts = torch.bincount(labels, minlength=len(centers))
    sums = torch.zeros_like(centers).index_add_(0, labels, x)
    means = sums / counts.clamp_min(1).to(x.dtype)[:, None]
    vacant = (counts == 0).nonzero().flatten()
    if len(vacant):
        far = squared.topk(len(vacant)).indices
        means[vacant] = torch.where((squared[far] > 0)[:, None], x[far], centers[vacant])
    return means


def kmeans(
    x: Tensor, clusters: int, seed: int = 0, max_iter: int = 300, tol: float = 1e-4, start: Tensor | None = None
) -> KMeans:
    """Cluster the rows of (n, d) `x`, from (K, d) `start` or by k-means++.

    It stops when the squared move of all centres is at most `tol` times the mean variance of a column (scikit-learn's
    rule), or when no label changes. Draws are made on the CPU, so that every device starts alike.
    """
    shift = x.mean(0)
    x = x - shift  # distances by products lose less to rounding around 0
    generator = torch.Generator().manual_seed(seed)
    centers = _plus_plus(x, clusters, generator) if start is None else start.to(x) - shift
    threshold = tol * float(x.var(0, unbiased=False).mean())
    labels, squared = nearest(x, centers)
    iterations = 0
    for iterations in range(1, max_iter + 1):  # noqa: B007
        moved, before = _means(x, labels, squared, centers), labels
        step = float((moved - centers).square().sum())
        centers = moved
        labels, squared = nearest(x, centers)
        if step <= threshold or torch.equal(labels, before):
            break
    empty = clusters - len(labels.unique())
    return KMeans(centers + shift, labels, float(squared.double().sum()), iterations, empty)


def silhouette(x: Tensor, labels: Tensor) -> float:
    """Return the mean silhouette, in [−1, 1], of (n,) labels of (n, d) rows (Rousseeuw 1987); higher is better.

    It is the mean of (b − a) / max(a, b): a, mean Euclidean distance to the row's own cluster; b, to the nearest other
    one. A row alone in its cluster counts 0.
    """
    _, compact = labels.unique(return_inverse=True)
    member = torch.nn.functional.one_hot(compact).to(x.dtype)
    sizes = member.sum(0)
    totals = torch.cat([torch.cdist(rows, x) @ member for rows in x.split(1024)])
    own = member.bool()
    own_size = sizes[compact]
    a = totals[own] / (own_size - 1).clamp_min(1)
    b = (totals / sizes).masked_fill(own, torch.inf).min(1).values
    value = (b - a) / torch.maximum(a, b).clamp_min(torch.finfo(x.dtype).tiny)
    return float(torch.where(own_size > 1, value, 0).double().mean())


def candidates(most: int) -> list[int]:
    """Return the first round of K: every number to 16, then steps of about 12 %, up to `most`.

    >>> candidates(24)
    [2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 19, 21, 23]
    """
    values = list(range(2, 17))
    while values[-1] < most:
        values.append(int(values[-1] * 1.12))
    return [value for value in values if value <= most]


def choose_clusters(x: Tensor, rule: Rule, most: int, seed: int) -> tuple[int, dict[int, float]]:
    """Return K <= min(most, n / 4) for the (n, D) gallery, and the rating of each K that was tried; higher is better.

    k-means clusters a sample of whole vectors for each candidate, and the rule rates the clusterings (BIC negated, of a
    diagonal mixture started from them). The neighbours of the best candidate are tried in a second round.
    """
    if len(x) > SAMPLE:
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:SAMPLE]
        x = x[order.to(x.device)]
    most = max(1, min(most, len(x) // 4))
    if most < 3:
        return most, {}

    def rate(clusters: int) -> float:
        best = min((kmeans(x, clusters, seed + start) for start in range(STARTS)), key=lambda run: run.inertia)
        if best.empty:  # fewer distinct rows than clusters
            return -torch.inf
        if rule == "silhouette":
            return silhouette(x, best.labels)
        return -bic(x, fit_mixture(x, best.labels, clusters, "diagonal"))

    tried = candidates(most)
    ratings = {clusters: rate(clusters) for clusters in tried}
    place = tried.index(max(ratings, key=ratings.__getitem__))
    between = range(tried[max(place - 1, 0)], tried[min(place + 1, len(tried) - 1)] + 1)
    ratings |= {clusters: rate(clusters) for clusters in between if clusters not in ratings}
    return max(ratings, key=ratings.__getitem__), dict(sorted(ratings.items()))
