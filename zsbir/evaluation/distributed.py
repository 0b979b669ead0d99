"""Evaluation on several processes (torch.distributed).

Where every process has all embeddings, as under ``torchrun ... zsbir evaluate``, they share the chunks of queries and
give bit for bit what one process gives. `evaluate_sharded` needs even less: each process has some of the queries and
some of the gallery, and only chunks of queries and counts travel.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor

from zsbir.errors import ZsbirError
from zsbir.evaluation.measure import Collected, PerQuery, Plan, Request, chunk_rows, found
from zsbir.evaluation.ranking import rank_shard, sorted_rows
from zsbir.matchers import MATCHERS
from zsbir.matchers.base import Matcher
from zsbir.types import Embeddings, Labels, Paths


def active() -> bool:
    """Return whether a process group of more than one process is there."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def shard() -> tuple[int, int]:
    """Return this process's number and how many there are; (0, 1) without a process group."""
    return (dist.get_rank(), dist.get_world_size()) if active() else (0, 1)


def is_first() -> bool:
    """Return whether this process is the one that prints and writes."""
    return shard()[0] == 0


@contextmanager
def joined_processes() -> Iterator[None]:
    """Join the processes that ``torchrun`` started, for the block; without ``torchrun`` do nothing."""
    start = int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized()
    if start:
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
        dist.init_process_group("gloo")
    try:
        yield
    finally:
        if start:
            dist.destroy_process_group()


def gather(part: PerQuery) -> PerQuery:
    """Return the queries of all processes, in order, on every process; without a process group `part` itself."""
    if not active():
        return part
    parts: list[PerQuery | None] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, part)
    return merge([p for p in parts if p is not None])


def merge(parts: list[PerQuery]) -> PerQuery:
    """Join the queries of several shards into one record, in the order of the queries."""
    full = [p for p in parts if len(p.query)]
    query = np.concatenate([p.query for p in full])
    order = np.argsort(query)
    values = {
        protocol: {m: np.concatenate([p.values[protocol][m] for p in full])[order] for m in found}
        for protocol, found in full[0].values.items()
    }
    curves = [p.curve for p in full if p.curve is not None]
    return replace(
        full[0],
        values=values,
        query=query[order],
        labels=np.concatenate([p.labels for p in full])[order],
        curve=np.concatenate(curves)[order] if curves else None,
    )


def own_share(count: int) -> npt.NDArray[np.bool_]:
    """Return (count,) which of `count` images this process embeds: a contiguous share."""
    number, processes = shard()
    mine: npt.NDArray[np.bool_] = np.arange(count) * processes // max(1, count) == number
    return mine


def gather_embeddings(part: Embeddings) -> Embeddings:
    """Join the embeddings of all processes, those of the first first; without a process group `part` itself."""
    if not active():
        return part
    parts: list[Embeddings | None] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, part)
    full = [p for p in parts if p is not None and len(p)]
    tokens = [p.tokens for p in full if p.tokens is not None]
    return replace(
        part,
        vectors=torch.cat([p.vectors for p in full]),
        labels=np.concatenate([p.labels for p in full]),
        paths=Paths(path for p in full for path in p.paths),
        tokens=torch.cat(tokens) if tokens else None,
    )


def measure_sharded(
    queries: Embeddings,
    gallery: Embeddings,
    request: Request,
    matcher: str | Mapping[str, Any] | Matcher = "cosine",
) -> PerQuery:
    """Compute the metrics of every query where each process has some of the queries and some of the gallery.

    Called on every process of a group with its own shard; labels must be positions in the same classes everywhere. A
    chunk of queries goes to all processes, each scores it against its own photos, and the scores of the relevant
    photos and the counts of photos above them are put together: memory and traffic do not grow with Q x G.

    Args:
        queries: This process's sketches; at least one.
        gallery: This process's photos; at least one.
        request: What to compute.
        matcher: A matcher whose scores do not depend on the other photos.

    Returns:
        All queries, those of the first process first, on every process.

    Raises:
        ZsbirError: If there is no process group, or the matcher is transductive.
    """
    if not active():
        raise ZsbirError("measure_sharded needs several processes: start them with torchrun")
    built = MATCHERS.build(matcher)
    if built.transductive:
        raise ZsbirError("a transductive matcher is fitted on the whole gallery: it cannot be split over processes")
    query_shards, photo_shards = _labels_of_all(queries.labels), _labels_of_all(gallery.labels)
    first = sum(map(len, query_shards[: dist.get_rank()]))
    labels, photos = np.concatenate(query_shards), np.concatenate(photo_shards)
    device = gallery.vectors.device
    fitted = built.fit(gallery)
    collected = Collected(request)
    plan = Plan(labels, photos, chunk_rows(max(map(len, photo_shards)), 4, device))
    relevant = _Relevant(photo_shards, device)
    with torch.inference_mode():
        for number, index in enumerate(plan.chunks()):
            vectors = _rows_of_all(queries.vectors, index - first).to(device)
            scores = fitted.scores(Embeddings(vectors, labels[index], queries.classes, domain="sketch"))
            best_first, many = relevant.best_first(scores, labels[index])
            ranks = rank_shard(scores.contiguous(), best_first, many, len(photos), _summed)
            if number % dist.get_world_size() == dist.get_rank():
                collected.add(index, [found(ranks, request)])
    return gather(collected.result(plan))


class _Relevant:
    """The scores of the relevant photos, which lie on all processes."""

    def __init__(self, shards: Sequence[Labels], device: torch.device) -> None:
        classes = int(max(shard.max() for shard in shards)) + 1
        counts = np.stack([np.bincount(shard, minlength=classes) for shard in shards])
        own = np.asarray(shards[dist.get_rank()])
        self._order = np.argsort(own, kind="stable").astype(np.int64)
        self._counts = counts[dist.get_rank()]
        self._start = np.cumsum(self._counts) - self._counts
        self._widest = counts.max(axis=0)
        self._total = counts.sum(axis=0)
        self._device = device

    def best_first(self, scores: Tensor, labels: Labels) -> tuple[Tensor, Tensor]:
        """Return (q, R) the negated scores, ascending and padded with +inf, and (q,) how many there are."""
        labels = np.minimum(labels, len(self._total) - 1)
        offset = np.arange(int(self._widest[labels].max()))
        place = np.minimum(self._start[labels][:, None] + offset, len(self._order) - 1)
        missing = torch.from_numpy(offset >= self._counts[labels][:, None]).to(self._device)
        columns = torch.from_numpy(self._order[place]).to(self._device)
        own = scores.gather(1, columns).neg_().masked_fill_(missing, torch.inf)
        blocks = [torch.empty_like(own) for _ in range(dist.get_world_size())]
        dist.all_gather(blocks, own)
        many = self._total[labels]
        ordered = sorted_rows(torch.cat(blocks, dim=1))[:, : int(many.max())]
        return ordered.contiguous(), torch.from_numpy(many).to(self._device)


def _labels_of_all(labels: Labels) -> list[Labels]:
    shards: list[Labels] = [np.zeros(0, dtype=np.int64)] * dist.get_world_size()
    dist.all_gather_object(shards, np.asarray(labels, dtype=np.int64))
    return shards


def _rows_of_all(own: Tensor, index: npt.NDArray[np.int64]) -> Tensor:
    """Return (q, D) the vectors at `index`, which counts from this process's first and may lie on others."""
    rows = own.new_zeros(len(index), own.shape[1])
    mine = np.flatnonzero((index >= 0) & (index < len(own)))
    rows[torch.from_numpy(mine).to(own.device)] = own[torch.from_numpy(index[mine]).to(own.device)]
    dist.all_reduce(rows)  # every row is zero but on one process
    return rows


def _summed(counts: Tensor) -> Tensor:
    dist.all_reduce(counts)
    return counts
