"""The pass over all scores: in chunks, exact, several protocols at once, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from zsbir.errors import ZsbirError
from zsbir.evaluation import metrics
from zsbir.evaluation.inputs import check_finite
from zsbir.evaluation.protocols import PROTOCOLS, Protocol
from zsbir.evaluation.ranking import Ranks, rank_relevant
from zsbir.evaluation.workers import row_workers
from zsbir.types import Labels

Floats = npt.NDArray[np.float64]
ScoreChunk = Callable[[npt.NDArray[np.int64]], Tensor]
"""From (q,) query positions to their (q, G) scores, a fresh tensor that may be overwritten."""

METRICS = ("mAP", "P@k", "R@k", "MRR", "nDCG")
"""What can be asked for; "mAP" is mAP@all and mAP@k. The fine-grained setting has "acc@k" besides."""

CHUNK_BYTES = 48 << 20
"""Size of a chunk of scores on the CPU."""

CHUNK_BYTES_CUDA = 1 << 30
"""Likewise on a GPU, where the sort needs about five times as much."""

MAX_ROWS = 512


@dataclass(frozen=True, eq=False)
class PerQuery:
    """The metrics of every query that has a relevant photo.

    Attributes:
        values: By protocol and metric, (q,) float64.
        query: (q,) int64, the position of each among all queries, ascending.
        labels: (q,) int64, its class.
        excluded: How many queries have no relevant photo in the gallery; they count nowhere.
        curve: (q, L) float64 interpolated precision at recall levels, or None if it was not asked for.
    """

    values: dict[str, dict[str, Floats]]
    query: npt.NDArray[np.int64]
    labels: Labels
    excluded: int
    curve: Floats | None = None
    notes: tuple[str, ...] = ()


def as_protocols(protocols: str | Protocol | Sequence[str | Protocol]) -> list[Protocol]:
    """Return the records of one or several protocols, given by name or as records."""
    given = [protocols] if isinstance(protocols, (str, Protocol)) else list(protocols)
    if not given:
        raise ZsbirError("name at least one protocol, for instance 'standard'")
    return [PROTOCOLS.build(item) for item in given]


def averages(result: PerQuery, protocols: str | Protocol | Sequence[str | Protocol]) -> dict[str, dict[str, float]]:
    """Return the means of all metrics, over queries or over classes as each protocol says."""
    means: dict[str, dict[str, float]] = {}
    for protocol in as_protocols(protocols):
        found = result.values[protocol.name]
        if protocol.average == "query":
            means[protocol.name] = {metric: float(values.mean()) for metric, values in found.items()}
        else:
            _, inverse, counts = np.unique(result.labels, return_inverse=True, return_counts=True)
            by_class = {metric: np.bincount(inverse, values) / counts for metric, values in found.items()}
            means[protocol.name] = {metric: float(values.mean()) for metric, values in by_class.items()}
    return means


@dataclass(frozen=True)
class Request:
    """What is to be computed.

    Attributes:
        protocols: Under which definitions.
        ks: Cut-offs, each at least 1.
        wanted: Names from `METRICS`.
        levels: Recall levels of the precision-recall curve; none: no curve.

    Raises:
        ZsbirError: If a k is below 1 or a metric is unknown.
    """

    protocols: Sequence[Protocol]
    ks: Sequence[int] = (100, 200)
    wanted: Sequence[str] = ("mAP", "P@k")
    levels: Sequence[float] = ()

    def __post_init__(self) -> None:
        if any(k < 1 for k in self.ks):
            raise ZsbirError(f"a cut-off k must be at least 1, not {min(self.ks)}")
        unknown = [name for name in self.wanted if name not in (*METRICS, "acc@k")]
        if unknown:
            raise ZsbirError(f"there is no metric {unknown[0]!r}. Known: {', '.join(METRICS)}")


class Plan:
    """Which queries are scored together, and which photos are relevant to them.

    Args:
        query_labels: (Q,) int64 from 0.
        gallery_labels: (G,) int64 from 0, in the same classes.
        rows: Queries at once.

    Raises:
        ZsbirError: If no query has a relevant photo.
    """

    def __init__(self, query_labels: Labels, gallery_labels: Labels, rows: int) -> None:
        classes = int(max(query_labels.max(), gallery_labels.max())) + 1
        counts = np.bincount(gallery_labels, minlength=classes).astype(np.int64)
        self.labels = query_labels
        self.gallery = len(gallery_labels)
        self.rows = rows
        self._order = np.argsort(gallery_labels, kind="stable").astype(np.int64)
        self._start = (np.cumsum(counts) - counts)[query_labels]
        self._relevant = counts[query_labels]
        kept = np.flatnonzero(self._relevant)
        if not len(kept):
            raise ZsbirError("no query has a photo of its class in the gallery: nothing can be evaluated")
        # Queries with equally many relevant photos share a chunk, so that little is padded.
        self._kept = kept[np.lexsort((query_labels[kept], self._relevant[kept]))]

    @property
    def excluded(self) -> int:
        """How many queries have no relevant photo."""
        return len(self.labels) - len(self._kept)

    def chunks(self) -> Iterator[npt.NDArray[np.int64]]:
        """Yield the positions of the queries of each chunk."""
        for begin in range(0, len(self._kept), self.rows):
            yield self._kept[begin : begin + self.rows]

    def relevant(self, index: npt.NDArray[np.int64], device: torch.device | str) -> tuple[Tensor, Tensor]:
        """Return (q, R) the relevant photos of each query (padded with its last one) and (q,) how many there are."""
        many = self._relevant[index]
        last = self._start[index] + many - 1
        place = np.minimum(self._start[index][:, None] + np.arange(many.max()), last[:, None])
        return torch.from_numpy(self._order[place]).to(device), torch.from_numpy(many).to(device)

    def notes(self, ks: Sequence[int]) -> tuple[str, ...]:
        """Return what a reader must know: queries left out, cut-offs above the gallery."""
        notes = []
        if self.excluded:
            total = len(self.labels)
            notes.append(f"{self.excluded} of {total} queries have no relevant photo in the gallery: left out")
        large = [k for k in ks if k > self.gallery]
        if large:
            notes.append(f"k = {', '.join(map(str, large))} is larger than the gallery of {self.gallery} photos")
        return tuple(notes)


def measure(
    chunk: ScoreChunk,
    query_labels: Labels,
    gallery_labels: Labels,
    request: Request,
    device: torch.device | str = "cpu",
    itemsize: int = 4,
    shard: tuple[int, int] = (0, 1),
) -> PerQuery:
    """Compute the metrics of every query.

    Args:
        chunk: Gives the scores of some queries.
        query_labels: (Q,) int64 from 0.
        gallery_labels: (G,) int64 from 0, in the same classes.
        request: What to compute.
        device: Where the scores are.
        itemsize: Bytes of a score.
        shard: ``(i, n)``: compute only every n-th chunk from the i-th on. The chunks do not depend on n, so n
            processes together give bit for bit what one gives.

    Returns:
        The metrics of the queries (of this shard), in their order.

    Raises:
        ZsbirError: If no query has a relevant photo, or the matcher gives NaN or infinite scores.
    """
    plan = Plan(query_labels, gallery_labels, chunk_rows(len(gallery_labels), itemsize, torch.device(device)))
    collected = Collected(request)
    with torch.inference_mode(), row_workers(torch.device(device)) as workers:
        for number, index in enumerate(plan.chunks()):
            if number % shard[1] != shard[0]:
                continue
            scores = chunk(index).contiguous()
            check_finite(scores, "rows of scores from the matcher")
            columns, many = plan.relevant(index, device)
            parts = [(scores[rows], columns[rows], many[rows]) for rows in workers.split(len(index))]
            collected.add(index, workers.map(lambda *part: found(rank_relevant(*part), request), parts))
    return collected.result(plan)


def chunk_rows(gallery: int, itemsize: int, device: torch.device) -> int:
    """Return how many queries to score at once."""
    budget = CHUNK_BYTES_CUDA if device.type == "cuda" else CHUNK_BYTES
    most = MAX_ROWS * 16 if device.type == "cuda" else MAX_ROWS
    return int(np.clip(budget // (gallery * itemsize), 1, most))


Found = tuple[dict[tuple[str, str], Tensor], Tensor | None]
"""Values (q,) by protocol and metric, and the precision-recall curves (q, L)."""


def found(ranks: Ranks, request: Request) -> Found:
    """Return what is asked for of some queries, on the CPU."""
    curve = metrics.interpolated_precision(ranks, request.levels).cpu() if request.levels else None
    return _metrics(ranks, request), curve


class Collected:
    """The metrics of the chunks seen so far."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self._index: list[npt.NDArray[np.int64]] = []
        self._values: list[dict[tuple[str, str], Tensor]] = []
        self._curves: list[Tensor] = []

    def add(self, index: npt.NDArray[np.int64], found: Sequence[Found]) -> None:
        """Keep the metrics of the queries at `index`, in one or several parts."""
        self._index.append(index)
        for values, curve in found:
            self._values.append(values)
            if curve is not None:
                self._curves.append(curve)

    def result(self, plan: Plan) -> PerQuery:
        """Return everything in the order of the queries."""
        query = np.concatenate(self._index) if self._index else np.zeros(0, dtype=np.int64)
        order = np.argsort(query)
        values: dict[str, dict[str, Floats]] = {}
        for protocol, metric in self._values[0] if self._values else ():
            joined = torch.cat([block[protocol, metric] for block in self._values]).numpy()
            values.setdefault(protocol, {})[metric] = joined[order]
        curve = torch.cat(self._curves).numpy()[order] if self._curves else None
        notes = plan.notes(self.request.ks)
        return PerQuery(values, query[order], plan.labels[query[order]], plan.excluded, curve, notes)


def _metrics(ranks: Ranks, request: Request) -> dict[tuple[str, str], Tensor]:
    """Return (q,) values on the CPU by (protocol, metric); what protocols share is computed once."""
    known: dict[tuple[Any, ...], Tensor] = {}

    def once(function: Callable[..., Tensor], *arguments: Any) -> Tensor:
        key = (function.__name__, *arguments)
        if key not in known:
            known[key] = function(ranks, *arguments).cpu()
        return known[key]

    ks = request.ks
    out: dict[tuple[str, str], Tensor] = {}
    for p in request.protocols:
        if "mAP" in request.wanted:
            # Without ties all rules are one; what it is called then lets protocols share the work.
            ties = p.ties if ranks.ties is not None else "mean-position"
            out[p.name, "mAP@all"] = once(metrics.average_precision, None, p.ap, ties)
            for k in ks if p.ap_at else ():
                out[p.name, f"mAP@{k}"] = once(metrics.average_precision, k, p.ap, ties, p.ap_at)
        if "P@k" in request.wanted and p.precision_at:
            out |= {(p.name, f"P@{k}"): once(metrics.precision, k, p.precision_at) for k in ks}
        for name, function in (("R@k", metrics.recall), ("acc@k", metrics.success)):
            if name in request.wanted:
                out |= {(p.name, f"{name[:-1]}{k}"): once(function, k) for k in ks}
        for name, whole in (("MRR", metrics.reciprocal_rank), ("nDCG", metrics.ndcg)):
            if name in request.wanted:
                out[p.name, name] = once(whole)
    return out
