"""The pass over all scores: in chunks, exact, several protocols at once, in bounded memory."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Barrier
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from tqdm import tqdm

from zsbir.errors import ZsbirError
from zsbir.evaluation import metrics
from zsbir.evaluation.distributed import gathered, shard
from zsbir.evaluation.inputs import check_finite
from zsbir.evaluation.overview import Overview
from zsbir.evaluation.protocols import PROTOCOLS, Protocol
from zsbir.evaluation.ranking import Ranks, rank_relevant
from zsbir.types import Labels

Floats = npt.NDArray[np.float64]
Index = npt.NDArray[np.int64]
ScoreChunk = Callable[[Index], Tensor]
"""From (q,) query positions to their (q, G) scores, a fresh tensor that may be overwritten."""
Protocols = str | Protocol | Sequence[str | Protocol] | None
Results = dict[str, dict[str, float]]
"""``{protocol: {metric: value in [0, 1]}}``."""

METRICS = ("mAP", "P@k", "R@k", "MRR", "nDCG")
"""What can be asked for; "mAP" is mAP@all and mAP@k. The fine-grained setting also has "acc@k"."""

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
        notes: What a reader must know: queries left out, cut-offs above the gallery.
    """

    values: dict[str, dict[str, Floats]]
    query: Index
    labels: Labels
    excluded: int
    curve: Floats | None = None
    notes: tuple[str, ...] = ()


def as_protocols(protocols: Protocols) -> list[Protocol]:
    """Return the records of one or several protocols, given by name or as records; None: standard."""
    given = ["standard"] if protocols is None else protocols
    records = [PROTOCOLS.build(item) for item in ([given] if isinstance(given, (str, Protocol)) else given)]
    if not records:
        raise ZsbirError("name at least one protocol, for instance 'standard'")
    return records


def averages(result: PerQuery, protocols: Protocols) -> Results:
    """Return the means of all metrics, over queries or over classes as each protocol says."""
    _, inverse, counts = np.unique(result.labels, return_inverse=True, return_counts=True)
    means: Results = {}
    for protocol in as_protocols(protocols):
        for metric, values in result.values[protocol.name].items():
            each = values if protocol.average == "query" else np.bincount(inverse, values) / counts
            means.setdefault(protocol.name, {})[metric] = float(each.mean())
    return means


class Request:
    """What is to be computed: metrics from `METRICS` (None: all) at cut-offs, and a curve at recall levels, if any.

    Raises:
        ZsbirError: If a k is not a whole number of at least 1, a metric is unknown, or a protocol has none of them.
    """

    def __init__(
        self,
        protocols: Protocols = None,
        ks: Sequence[int] | int = (100, 200),
        wanted: Sequence[str] | str | None = ("mAP", "P@k"),
        levels: Sequence[float] = (),
    ) -> None:
        self.protocols = as_protocols(protocols)
        try:
            self.ks = tuple(operator.index(k) for k in (ks if np.iterable(ks) else [ks]))
        except TypeError:
            raise ZsbirError(f"a cut-off k must be a whole number, and ks one or several of them, not {ks!r}") from None
        if any(k < 1 for k in self.ks):
            raise ZsbirError(f"a cut-off k must be at least 1, not {min(self.ks)}")
        self.wanted = METRICS if wanted is None else (wanted,) if isinstance(wanted, str) else tuple(wanted)
        self.levels = levels
        for name in self.wanted:
            if name not in (*METRICS, "acc@k"):
                raise ZsbirError(f"there is no metric {name!r}. Known: {', '.join(METRICS)}")
        for protocol in self.protocols:
            defined = {"mAP", "MRR", "nDCG", *(("R@k", "acc@k", protocol.precision_at and "P@k") if self.ks else ())}
            if defined.isdisjoint(self.wanted):
                asked = ", ".join(self.wanted) or "none"
                raise ZsbirError(
                    f"the protocol {protocol.name!r} has none of the metrics asked for ({asked}; k: "
                    f"{', '.join(map(str, self.ks)) or 'none'}): add 'mAP'"
                )


class Chunks:
    """Which of (Q,) queries are scored together, at most `rows`, and which of (G,) photos are relevant to them."""

    def __init__(self, query_labels: Labels, gallery_labels: Labels, rows: int) -> None:
        counts = np.bincount(gallery_labels, minlength=int(query_labels.max()) + 1).astype(np.int64)
        self.labels = query_labels
        self.gallery = len(gallery_labels)
        self._order = np.argsort(gallery_labels, kind="stable").astype(np.int64)
        self._start = (np.cumsum(counts) - counts)[query_labels]
        self._relevant = counts[query_labels]
        kept, without = np.flatnonzero(self._relevant), np.flatnonzero(self._relevant == 0)
        if not len(kept):
            raise ZsbirError("no query has a photo of its class in the gallery: nothing can be evaluated")
        self.excluded = len(without)
        # Queries with equally many relevant photos share a chunk, so that little is padded.
        kept = kept[np.lexsort((query_labels[kept], self._relevant[kept]))]
        self.evaluated, self.left_out = (
            [index[begin : begin + rows] for begin in range(0, len(index), rows)] for index in (kept, without)
        )

    def relevant(self, index: Index, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return (q, R) the relevant photos of each query (padded with its last one) and (q,) how many there are."""
        many = self._relevant[index]
        last = np.maximum(self._start[index] + many - 1, 0)
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


Found = tuple[dict[tuple[str, str], Tensor], Tensor | None]
"""Values (q,) by protocol and metric, and the precision-recall curves (q, L)."""


def measure(
    chunk: ScoreChunk,
    query_labels: Labels,
    gallery_labels: Labels,
    request: Request,
    like: Tensor | None = None,
    overview: Overview | None = None,
    share: bool = False,
    progress: bool = False,
) -> PerQuery:
    """Compute the metrics of every query, in their order; the scores of each query are asked for once.

    Args:
        chunk: Gives the scores of some queries.
        query_labels: (Q,) int64 from 0.
        gallery_labels: (G,) int64 from 0, in the same classes.
        request: What to compute.
        like: A tensor of the scores' type, where they are; None: float32 on the CPU.
        overview: Looks at all scores on the way, those of queries without a relevant photo too.
        share: Whether the processes that run share the chunks. The chunks do not depend on how many there are, so
            together they give bit for bit what one gives.
        progress: Show a bar.

    Raises:
        ZsbirError: If no query has a relevant photo, or the matcher gives NaN or infinite scores.
    """
    like = torch.empty(0) if like is None else like
    device = like.device
    chunks = Chunks(query_labels, gallery_labels, chunk_rows(len(gallery_labels), like.itemsize, device))
    numbered = list(enumerate([*chunks.evaluated, *(chunks.left_out if overview else [])]))
    first, step = shard() if share else (0, 1)
    done: list[tuple[int, Index, list[Found], Any]] = []

    def values(part: tuple[Tensor, Tensor, Tensor]) -> Found:
        with torch.inference_mode():  # the mode is a thread's own
            ranks = rank_relevant(*part)
            curve = metrics.interpolated_precision(ranks, request.levels).cpu() if request.levels else None
            return _metrics(ranks, request), curve

    with torch.inference_mode(), row_threads(device) as (threads, run):
        for number, index in tqdm(numbered[first::step], "ranking", unit="chunk", disable=not progress, leave=False):
            scores = chunk(index).contiguous()
            check_finite(scores, "rows of scores from the matcher")
            held = scores, *chunks.relevant(index, device)
            seen = overview.look(index, *held) if overview else None
            parts = zip(*(side.split(-(-len(index) // threads)) for side in held), strict=True)
            done.append((number, index, list(run(values, parts)) if number < len(chunks.evaluated) else [], seen))
    if share:
        done = sorted(gathered(done), key=operator.itemgetter(0))
    if overview:
        overview.take([seen for *_, seen in done])
    return _joined([(index, found) for _, index, found, _ in done if found], chunks, request)


def chunk_rows(gallery: int, itemsize: int, device: torch.device) -> int:
    """Return how many queries to score at once."""
    budget, most = (CHUNK_BYTES_CUDA, MAX_ROWS * 16) if device.type == "cuda" else (CHUNK_BYTES, MAX_ROWS)
    return int(np.clip(budget // (gallery * itemsize), 1, most))


@contextmanager
def row_threads(device: torch.device) -> Iterator[tuple[int, Callable[..., Any]]]:
    """Give, for the block, a number of threads and a `map` that runs on them: on a GPU, the caller's own.

    Ranks and metrics are many small operations. With torch's own threads each of them waits until the last thread is
    done, which on a busy machine takes longer than the work; here each thread does all of it for its rows, alone.
    """
    count = torch.get_num_threads()
    if device.type != "cpu" or count == 1:
        yield 1, map
        return
    together = Barrier(count)
    with ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        # All start here and now: what they set is theirs in part, and in part (MKL) the process's, and is set back.
        list(pool.map(lambda _: together.wait(), range(count)))
        torch.set_num_threads(count)
        yield count, pool.map


def _joined(done: Sequence[tuple[Index, list[Found]]], chunks: Chunks, request: Request) -> PerQuery:
    """Return everything in the order of the queries."""
    query = np.concatenate([index for index, _ in done])
    order = np.argsort(query)
    found = [part for _, parts in done for part in parts]
    values: dict[str, dict[str, Floats]] = {}
    for protocol, metric in found[0][0]:
        joined = torch.cat([block[protocol, metric] for block, _ in found]).numpy()
        values.setdefault(protocol, {})[metric] = joined[order]
    curve = torch.cat([curve for _, curve in found if curve is not None]).numpy()[order] if request.levels else None
    labels = chunks.labels[query[order]]
    return PerQuery(values, query[order], labels, chunks.excluded, curve, chunks.notes(request.ks))


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
