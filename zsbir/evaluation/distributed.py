"""The same evaluation on several processes (torch.distributed): bit for bit, or with the gallery split as well."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch.distributed as dist

from zsbir.evaluation.measure import PerQuery


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
