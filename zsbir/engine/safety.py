"""What ends a run, and what it says then."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch

from zsbir.engine.logging import say
from zsbir.errors import ZsbirError


class BadImages:
    """Counts the images that were skipped, up to a limit of distinct ones; `messages` says why of each."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.messages: list[str] = []

    def add(self, messages: Iterable[str]) -> None:
        """Note skipped images; each is told once.

        Raises:
            ZsbirError: Beyond the limit, listing all of them.
        """
        for message in messages:
            if message not in self.messages:
                self.messages.append(message)
                say(f"skipped: {message}")
        if len(self.messages) > self.limit:
            listed = "\n  ".join(self.messages)
            raise ZsbirError(
                f"{len(self.messages)} images cannot be read, more than --max-bad-images {self.limit}:\n  {listed}"
            )


def raise_in_a_sentence(error: Exception, step: int, batch_size: int, run: Path | None) -> None:
    """Raise ZsbirError if an error of torch means that GPU memory ran out or that a worker process was killed."""
    if isinstance(error, torch.cuda.OutOfMemoryError):
        raise ZsbirError(
            f"out of GPU memory at step {step}: lower --batch-size (now {batch_size}) and raise --accumulate, or use "
            "--precision bf16"
        ) from error
    if isinstance(error, (ConnectionError, EOFError)) or "DataLoader worker" in str(error):
        kept = run is not None and (run / "last").is_dir()
        again = f"; go on with: zsbir train --resume {run} --workers 0" if kept else ""
        raise ZsbirError(
            f"a process that decodes images was killed at step {step}, maybe for want of memory{again}"
        ) from error
