"""Metrics of single queries: pure functions of the ranks of the relevant photos.

Each takes the `Ranks` of q queries and returns (q,) or (q, L) float64 in [0, 1]. ``k=None`` means the whole gallery.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from zsbir.evaluation.protocols import AP, CutAP, CutPrecision, TieRule
from zsbir.evaluation.ranking import Ranks

LEVELS = tuple(i / 20 for i in range(21))
"""Recall levels of a precision-recall curve."""


def average_precision(
    ranks: Ranks, k: int | None = None, ap: AP = "exact", ties: TieRule = "expectation", over: CutAP = "min(R, k)"
) -> Tensor:
    """Return (q,) AP over the first `k` photos; a query without a hit among them scores 0.

    Args:
        ranks: The ranks of q queries.
        k: Cut-off; None for all photos, where `over` does not matter.
        ap: Definition, see `zsbir.evaluation.protocols.Protocol`.
        ties: Rule for equal scores, likewise; VOC needs ``"mean-position"``.
        over: Denominator, likewise.
    """
    cut = ranks.gallery if k is None else min(k, ranks.gallery)
    gain = _precisions(ranks, cut, ties)
    if ap == "voc":
        gain = _suffix_max(gain)
    total = gain.sum(dim=1)
    if k is None:
        return total / ranks.relevant
    if over == "min(R, k)":
        return total / ranks.relevant.clamp(max=k)
    if ties == "mean-position":
        found = (ranks.position[:, : ranks.columns(cut)] <= cut).sum(dim=1).to(torch.float64)
    else:
        found = hits(ranks, cut)
    return torch.where(found > 0, total / found.clamp(min=1e-300), 0.0)


def hits(ranks: Ranks, k: int | Tensor) -> Tensor:
    """Return (q,) the number of relevant photos among the first `k`, in the mean over the orders of ties.

    Args:
        ranks: The ranks of q queries.
        k: One cut-off, or (q,) float64 cut-offs.
    """
    columns = ranks.columns(int(k.max()) if isinstance(k, Tensor) else k)
    edge = k[:, None] if isinstance(k, Tensor) else k
    inside = (ranks.before[:, :columns] < edge).to(torch.float64)
    if ranks.ties is not None:
        t = ranks.ties.upto(columns)
        at = k[t.row] if isinstance(k, Tensor) else k
        inside[t.row, t.column] = torch.minimum((at - t.before).clamp(min=0), t.size) / t.size
    return inside.sum(dim=1)


def precision(ranks: Ranks, k: int, over: CutPrecision = "k") -> Tensor:
    """Return (q,) P@k with the denominator `over`, see `zsbir.evaluation.protocols.Protocol`."""
    if over == "top min(k, R)":
        cut = ranks.relevant.clamp(max=k)
        return hits(ranks, cut) / cut
    found = hits(ranks, k)
    if over == "min(k, R)":
        return found / ranks.relevant.clamp(max=k)
    return found / (k if over == "k" else min(k, ranks.gallery))


def recall(ranks: Ranks, k: int) -> Tensor:
    """Return (q,) the share of the relevant photos that are among the first `k`."""
    return hits(ranks, k) / ranks.relevant


def success(ranks: Ranks, k: int) -> Tensor:
    """Return (q,) acc@k for queries with one relevant photo: the chance that it is among the first `k`."""
    return hits(ranks, k).clamp(max=1)


def reciprocal_rank(ranks: Ranks) -> Tensor:
    """Return (q,) 1 / rank of the best relevant photo, in the mean over the orders of ties."""
    result = 1 / (ranks.before[:, 0] + 1)
    if ranks.ties is not None:
        t = ranks.ties.upto(1)
        ties = torch.stack([t.before, t.size, t.hits], dim=1).long().tolist()
        result[t.row] = result.new_tensor([_expected_reciprocal(*tie) for tie in ties])
    return result


def ndcg(ranks: Ranks) -> Tensor:
    """Return (q,) nDCG over the whole gallery with gain 1 for relevant photos, in the mean over the orders of ties."""
    discount = 1 / torch.log2(ranks.before + 2)
    if ranks.ties is not None:
        t = ranks.ties
        steps = torch.arange(ranks.gallery + 1, dtype=torch.float64, device=discount.device)
        total = (1 / torch.log2(steps + 2)).cumsum(0)  # total[i]: sum over ranks 1 ... i + 1
        upto = total[(t.before + t.size - 1).long()]
        start = torch.where(t.before > 0, total[(t.before - 1).clamp(min=0).long()], 0.0)
        discount[t.row, t.column] = (upto - start) / t.size
    ideal = (1 / torch.log2(ranks.order + 1)).cumsum(0)
    return discount.sum(dim=1) / ideal[ranks.relevant.long() - 1]


def interpolated_precision(ranks: Ranks, levels: Sequence[float]) -> Tensor:
    """Return (q, L) the highest precision at recall `levels` or above, the usual precision-recall curve."""
    best = _suffix_max(_precisions(ranks, ranks.gallery, "mean-position"))
    level = torch.tensor(levels, dtype=torch.float64, device=best.device)
    # The hit that reaches a recall level: ceil(level R), at least the first. 1e-9: 0.3 * 10 must not give 4.
    hit = torch.ceil(level * ranks.relevant[:, None] - 1e-9).clamp(min=1).long()
    return best.gather(1, hit - 1)


def chance(gallery: int, relevant: int) -> float:
    """Return the exact mean AP of a random order of `gallery` photos, `relevant` of them relevant."""
    ones = torch.ones(1, dtype=torch.float64)
    harmonic = float((1 / torch.arange(1, gallery + 1, dtype=torch.float64)).sum())
    return float(_expected_gain(0 * ones, gallery * ones, 0 * ones, relevant * ones, gallery * ones, harmonic * ones))


def _precisions(ranks: Ranks, k: int, rule: TieRule) -> Tensor:
    """Return (q, c) the precision that each relevant photo among the first `k` adds to AP; 0 elsewhere."""
    columns = ranks.columns(k)
    gain = ranks.precision[:, :columns]
    if k < ranks.gallery:
        gain = torch.where(ranks.position[:, :columns] <= k, gain, 0.0)
    if ranks.ties is None or rule == "mean-position":
        return gain
    t = ranks.ties.upto(columns)
    gain = gain.clone()
    inside = torch.minimum((k - t.before).clamp(min=0), t.size)
    if rule == "grouped":
        found = t.hits * inside / t.size
        gain[t.row, t.column] = inside / t.size * (t.hits_before + found) / (t.before + inside).clamp(min=1)
    else:
        steps = torch.arange(ranks.gallery + 1, dtype=torch.float64, device=gain.device)
        harmonic = torch.cat([steps[:1], (1 / steps[1:]).cumsum(0)])
        span = harmonic[(t.before + inside).long()] - harmonic[t.before.long()]
        gain[t.row, t.column] = _expected_gain(t.before, t.size, t.hits_before, t.hits, inside, span)
    return gain


def _expected_gain(
    before: Tensor, size: Tensor, hits_before: Tensor, hits: Tensor, cut: Tensor, span: Tensor
) -> Tensor:
    """Return the expected precision that one tied relevant photo adds, over all orders of its tie.

    At place j of a tie of n photos, r of them relevant, stands a given one with chance 1 / n, and (j - 1)(r - 1) /
    (n - 1) others stand before it in the mean. So the sum over j = 1 ... m of (p + 1 + (j - 1)(r - 1) / (n - 1)) /
    (s + j) / n, with s photos and p relevant ones before the tie; `span` is the sum of 1 / (s + j).
    """
    slope = torch.where(size > 1, (hits - 1) / (size - 1).clamp(min=1), 0.0)
    return ((hits_before + 1) * span + slope * (cut - (before + 1) * span)) / size


def _expected_reciprocal(before: int, size: int, found: int) -> float:
    """Return the mean of 1 / rank of the first of `found` relevant photos in a tie of `size`, after `before` photos."""
    total, none_yet = 0.0, 1.0
    for place in range(1, size - found + 2):
        here = found / (size - place + 1)
        total += none_yet * here / (before + place)
        none_yet *= 1 - here
        if none_yet < 1e-18:
            break
    return total


def _suffix_max(values: Tensor) -> Tensor:
    """Return (q, c) the maximum over each entry and all to its right."""
    if values.device.type != "cpu":
        return values.flip(1).cummax(dim=1).values.flip(1)
    backwards = values.numpy()[:, ::-1]
    return torch.from_numpy(np.maximum.accumulate(backwards, axis=1)[:, ::-1].copy())
