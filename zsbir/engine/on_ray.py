"""Ray as the scheduler of `zsbir embed`: actors that hold the model take the shards that are missing.

Ray restarts an actor that dies and gives its shard to another one. It does not resume after its driver dies, and a job
that is run again would write its rows twice: both do not matter here, because a shard is a file that is either whole or
not there, and only the missing ones are handed out.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tqdm import tqdm

from zsbir.engine.shards import Parts
from zsbir.errors import ZsbirError, needing
from zsbir.methods.base import Method


def embed_on_ray(
    parts: Sequence[Parts],
    find: Callable[[], Method],
    *,
    address: str | None = None,
    actors: int = 2,
    threads: int = 1,
    progress: bool = False,
    options: Mapping[str, Any],
) -> int:
    """Do the missing shards of jobs on Ray, and return how many.

    Args:
        parts: The jobs; their folders must be reachable from every machine of the cluster, under the same path.
        find: Loads the model; called once by each actor.
        address: The cluster, such as ``"auto"`` or ``"ray://head:10001"``; None: Ray is started on this machine.
        actors: Processes that hold the model, at the most; each gets a GPU where the options say ``device="cuda"``.
        threads: Processor threads of an actor.
        progress: Show a bar.
        options: As for `Parts.embed_shard`.

    Raises:
        ZsbirError: If Ray is not installed, there is no cluster at the address, or a shard fails.
    """
    with needing("--engine ray", "zsbir[ray]"):
        import ray
    if actors < 1:
        raise ZsbirError(f"--actors {actors}: at least one process must hold the model")
    todo = [{"job": job, "shard": shard} for job, some in enumerate(parts) for shard in some.missing()]
    if not todo:
        return 0
    ours = not ray.is_initialized()
    try:
        if ours:
            ray.init(address=address, log_to_driver=False, include_dashboard=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ZsbirError(f"there is no Ray cluster at {address!r}: {error}") from None
    try:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        done = ray.data.from_items(todo, override_num_blocks=len(todo)).map_batches(
            _Worker, fn_constructor_args=(list(parts), find, threads, dict(options)), batch_size=1,
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=actors), num_cpus=threads,
            num_gpus=1 if options.get("device") == "cuda" else 0,
        )  # fmt: skip
        with tqdm(total=len(todo), desc="embedding", unit="shard", disable=not progress) as bar:
            for _ in done.iter_rows():
                bar.update()
    except ray.exceptions.RayError as error:
        raise ZsbirError(f"Ray gave up: {_reason(error)}; what is done stays, run the same command again") from None
    finally:
        if ours:
            ray.shutdown()
    return len(todo)


class _Worker:
    """An actor: loads the model once and does shards."""

    def __init__(
        self, parts: list[Parts], find: Callable[[], Method], threads: int, options: Mapping[str, Any]
    ) -> None:
        import torch

        torch.set_num_threads(threads)
        self.parts, self.options, self.method = parts, options, find()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        counts = [
            self.parts[job].embed_shard(self.method, int(shard), **self.options)
            for job, shard in zip(batch["job"], batch["shard"], strict=True)
        ]
        return {"images": counts}


def _reason(error: BaseException) -> str:
    """Return the last line of an error that crossed processes: the cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
