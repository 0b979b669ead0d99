"""The number of clusters, chosen on the gallery without looking at a label."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from zsbir.matchers._kmeans import kmeans
from zsbir.matchers._mixture import bic, fit_mixture

Rule = Literal["silhouette", "bic"]

SAMPLE = 3000
"""Rows that the choice is made on; more change the curves by less than two starts of k-means do."""
STARTS = 3
"""k-means runs for each candidate; the tightest counts."""


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
