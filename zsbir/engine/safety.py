"""What ends a run, and what it says then."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch

from zsbir.engine.logging import say
from zsbir.errors import ZsbirError


def check_finite(
    figures: Mapping[str, float], terms: Iterable[str], files: Mapping[str, list[str]], where: str, kept: str
) -> None:
    """Raise if a loss term is NaN or infinite.

    Args:
        figures: The step's figures by name.
        terms: Which of them are loss terms.
        files: The batch's files by field.
        where: The step, in words.
        kept: Which checkpoint there is, in words.

    Raises:
        ZsbirError: Naming the term and files of the batch.
    """
    broken = [name for name in terms if not math.isfinite(figures[name])]
    if broken:
        named = ", ".join(name for names in files.values() for name in names[:4])
        raise ZsbirError(
            f"the loss term {broken[0]!r} is {figures[broken[0]]} at {where}{kept}. Lower --lr, or look at the batch's "
            f"files: {named}, ..."
        )


class BadImages:
    """Counts the images that were skipped, up to a limit.

    Args:
        limit: How many distinct ones are accepted.
        known: Messages from before (resuming).
    """

    def __init__(self, limit: int, known: Iterable[str] = ()) -> None:
        self.limit = limit
        self.messages = list(known)

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


def in_a_sentence(error: Exception, step: int, batch_size: int, run: Path | None) -> ZsbirError | None:
    """Return the error to show for no GPU memory left, or a worker process that was killed, else None.

    Args:
        error: What torch raised.
        step: The step it happened in.
        batch_size: Rows a step.
        run: The run folder.
    """
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return ZsbirError(
            f"out of GPU memory at step {step}: lower --batch-size (now {batch_size}) and raise --accumulate, or use "
            "--precision bf16"
        )
    if isinstance(error, (ConnectionError, EOFError)) or "DataLoader worker" in str(error):
        kept = run is not None and (run / "last").is_dir()
        again = f"; go on with: zsbir train --resume {run} --workers 0" if kept else ""
        return ZsbirError(f"a process that decodes images was killed at step {step}, maybe for want of memory{again}")
    return None
