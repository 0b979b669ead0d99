"""Which protocols can have produced a published pair of mAP@k and P@k.

On one ranking with h relevant photos among the first k, P@k and AP@k are bound to each other: AP@k is largest with all
h in front and smallest with all at the end. A mean over queries (or classes) is a mixture of such rankings, so the
possible pairs of means are the convex hull of the pairs of single rankings, and a pair outside comes from elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from zsbir.arguments import Count, checked
from zsbir.errors import ZsbirError
from zsbir.evaluation.protocols import PROTOCOLS, Protocol

Verdict = Literal["possible", "only with small classes", "impossible", "undefined"]


@dataclass(frozen=True)
class Explanation:
    """Whether a protocol can have produced a pair.

    Attributes:
        protocol: Its name.
        verdict: ``"possible"``; ``"only with small classes"``: only if some queries have fewer than k relevant
            photos; ``"impossible"``; or ``"undefined"``: the protocol has no mAP@k or no P@k.
        low: Smallest mAP@k at this P@k when every query has at least k relevant photos; NaN if undefined.
        high: Largest, likewise.
    """

    protocol: str
    verdict: Verdict
    low: float
    high: float


def consistent(mean_ap: float, mean_precision: float, tolerance: float = 5e-4) -> bool:
    """Return whether mAP@k <= P@k, as it must be with the denominators min(R, k) and k where R >= k for all queries.

    >>> consistent(0.735, 0.768), consistent(0.805, 0.768)
    (True, False)
    """
    return mean_ap <= mean_precision + tolerance


@checked("explanation")
def explain(mean_ap: float, mean_precision: float, k: Count, tolerance: float = 5e-4) -> list[Explanation]:
    """Say of every protocol whether it can have produced mAP@k = `mean_ap` with P@k = `mean_precision`.

    Args:
        mean_ap: The published mAP@k, in [0, 1].
        mean_precision: The published P@k, in [0, 1].
        k: The cut-off of both.
        tolerance: Half of the last published digit.

    Raises:
        ZsbirError: If a value is outside its range (percentages are to be divided by 100).

    >>> {e.protocol: e.verdict for e in explain(0.805, 0.768, 200)}["standard"]
    'only with small classes'
    """
    for name, value in (("mAP", mean_ap), ("P", mean_precision)):
        if not 0 <= value <= 1:
            raise ZsbirError(f"{name}@k = {value} is not in [0, 1]: divide percentages by 100")
    return [_explain(PROTOCOLS.build(name), mean_ap, mean_precision, k, tolerance) for name in PROTOCOLS.names()]


def _explain(protocol: Protocol, mean_ap: float, mean_precision: float, k: int, tolerance: float) -> Explanation:
    if protocol.ap_at is None or protocol.precision_at is None:
        return Explanation(protocol.name, "undefined", float("nan"), float("nan"))
    low, high = _range(_points(protocol, k, k), mean_precision, tolerance)
    if low - tolerance <= mean_ap <= high + tolerance:
        return Explanation(protocol.name, "possible", low, high)
    # All numbers of relevant photos for a small k, else some thirty of 1 ... k.
    few = sorted({max(1, round(x)) for x in np.linspace(1, k, min(k, 30))})
    wide_low, wide_high = _range(np.concatenate([_points(protocol, r, k) for r in few]), mean_precision, tolerance)
    fits = wide_low - tolerance <= mean_ap <= wide_high + tolerance
    return Explanation(protocol.name, "only with small classes" if fits else "impossible", low, high)


def _points(protocol: Protocol, relevant: int, k: int) -> npt.NDArray[np.float64]:
    """Return (n, 2): P@k and AP@k of the extreme rankings with R = `relevant` (R = k stands for any R >= k)."""
    points: list[tuple[float, float]] = []
    shortened = protocol.precision_at == "top min(k, R)"
    for count in range(relevant + 1):
        for first in (True, False):
            place = np.arange(1, count + 1) if first else np.arange(k - count + 1, k + 1)
            if shortened and relevant < k:
                # Only the first R photos decide P@k here; those behind them add to AP alone.
                behind = np.arange(relevant + 1, min(2 * relevant - count, k) + 1)
                place = np.r_[place, behind] if first else np.arange(relevant - count + 1, relevant + 1)
            found = len(place)
            gain = np.arange(1, found + 1) / place
            if protocol.ap == "voc":
                gain = np.maximum.accumulate(gain[::-1])[::-1]
            ap = float(gain.sum() / (found if protocol.ap_at == "hits" else relevant)) if found else 0.0
            hits = int((place <= relevant).sum()) if shortened else found
            points.append((hits / (k if protocol.precision_at in ("k", "min(k, G)") else relevant), ap))
    return np.array(points)


def _range(points: npt.NDArray[np.float64], at: float, tolerance: float) -> tuple[float, float]:
    """Return the lowest and highest second coordinate of the convex hull of `points` at a first one near `at`."""
    near = [max(0.0, at - tolerance), at, min(1.0, at + tolerance)]
    return min(_edge(points, near, 1.0)), max(_edge(points, near, -1.0))


def _edge(points: npt.NDArray[np.float64], at: list[float], sign: float) -> list[float]:
    """Return the second coordinates of the hull's lower edge (of the upper one, if `sign` is −1) at first ones."""
    order = np.lexsort((sign * points[:, 1], points[:, 0]))
    hull: list[tuple[float, float]] = []
    for x, y in ((float(p), sign * float(q)) for p, q in points[order]):
        if hull and hull[-1][0] == x:
            continue  # the lower of two with one x came first
        while len(hull) > 1 and _turn(hull[-2], hull[-1], (x, y)) <= 0:
            hull.pop()
        hull.append((x, y))
    xs, ys = zip(*hull, strict=True)
    found: list[float] = (sign * np.interp(at, xs, ys)).tolist()
    return found


def _turn(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> float:
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
