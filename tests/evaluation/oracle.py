"""Slow, independent versions of every definition: plain Python, one query at a time, all orders of all ties."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence


def orders(scores: Sequence[float], relevant: Sequence[bool]) -> Iterator[list[bool]]:
    """Yield the relevance list from best to worst for every order of equal scores."""
    groups = [
        [r for s, r in zip(scores, relevant, strict=True) if s == value] for value in sorted(set(scores), reverse=True)
    ]
    for choice in itertools.product(*(list(itertools.permutations(group)) for group in groups)):
        yield [r for group in choice for r in group]


def mean_over_orders(metric, scores, relevant) -> float:
    values = [metric(order) for order in orders(scores, relevant)]
    return sum(values) / len(values)


def exact_ap(order: Sequence[bool], k: int | None = None, over: str = "min(R, k)") -> float:
    cut = order if k is None else order[:k]
    found, total = 0, 0.0
    for place, right in enumerate(cut, 1):
        if right:
            found += 1
            total += found / place
    if over == "hits":
        return total / found if found else 0.0
    return total / (sum(order) if k is None else min(k, sum(order)))


def voc_ap(order: Sequence[bool], k: int | None = None) -> float:
    cut = order if k is None else order[:k]
    precision = [sum(cut[: i + 1]) / (i + 1) for i in range(len(cut))]
    total = sum(max(precision[i:]) for i, right in enumerate(cut) if right)
    return total / (sum(order) if k is None else min(k, sum(order)))


def precision(order: Sequence[bool], k: int, over: str = "k") -> float:
    relevant = sum(order)
    if over == "top min(k, R)":
        return sum(order[: min(k, relevant)]) / min(k, relevant)
    below = {"k": k, "min(k, G)": min(k, len(order)), "min(k, R)": min(k, relevant)}[over]
    return sum(order[:k]) / below


def recall(order: Sequence[bool], k: int) -> float:
    return sum(order[:k]) / sum(order)


def reciprocal_rank(order: Sequence[bool]) -> float:
    return 1 / (list(order).index(True) + 1)


def ndcg(order: Sequence[bool]) -> float:
    gain = sum(1 / math.log2(place + 1) for place, right in enumerate(order, 1) if right)
    return gain / sum(1 / math.log2(place + 1) for place in range(1, sum(order) + 1))


def mean_position_ap(scores, relevant, k: int | None = None, voc: bool = False, over: str = "min(R, k)") -> float:
    """AP with each relevant photo of a tie at its mean place over all orders, found by going through the orders."""
    count = sum(relevant)
    places = [0.0] * count
    number = 0
    for order in orders(scores, relevant):
        number += 1
        for i, place in enumerate(place for place, right in enumerate(order, 1) if right):
            places[i] += place
    places = [place / number for place in places]
    edge = math.inf if k is None else k
    precisions = [(i + 1) / place if place <= edge + 1e-9 else 0.0 for i, place in enumerate(places)]
    inside = sum(place <= edge + 1e-9 for place in places)
    if voc:
        precisions = [max(precisions[i:]) for i in range(count)]
    if over == "hits":
        return sum(precisions) / inside if inside else 0.0
    return sum(precisions) / (count if k is None else min(k, count))
