"""Evaluation on several processes: under ``torchrun`` they share the images to embed and the chunks of queries."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist

from zsbir.types import Embeddings

T = TypeVar("T")


def shard() -> tuple[int, int]:
    """Return this process's number and how many there are; (0, 1) without processes that Accelerate knows of."""
    if not (dist.is_available() and dist.is_initialized()):
        return 0, 1
    from accelerate import PartialState

    state = PartialState()
    return state.process_index, state.num_processes


def is_first() -> bool:
    """Return whether this process is the one that prints and writes."""
    return shard()[0] == 0


@contextmanager
def joined_processes() -> Iterator[None]:
    """Join the processes that ``torchrun`` started, for the block; without ``torchrun`` do nothing."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or dist.is_initialized():
        yield
        return
    from accelerate import PartialState

    state = PartialState(cpu=not torch.cuda.is_available())
    try:
        yield
    finally:
        state.destroy_process_group()


def gathered(items: Sequence[T]) -> list[T]:
    """Return the items of all processes on each of them, those of the first process first."""
    if shard()[1] == 1:
        return list(items)
    from accelerate.utils import gather_object

    found: list[T] = gather_object(list(items))
    return found


def own_share(count: int) -> npt.NDArray[np.bool_]:
    """Return (count,) which of `count` images this process embeds: a contiguous share."""
    number, processes = shard()
    mine: npt.NDArray[np.bool_] = np.arange(count) * processes // max(1, count) == number
    return mine


def gather_embeddings(part: Embeddings) -> Embeddings:
    """Join the embeddings of all processes, those of the first first."""
    return Embeddings.join([some for some in gathered([part]) if len(some)] or [part])
