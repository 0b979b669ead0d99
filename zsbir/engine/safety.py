"""What stops a run, and what it says then."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path

from zsbir.engine.logging import say
from zsbir.errors import ZsbirError


def check_finite(
    figures: Mapping[str, float], terms: Iterable[str], files: Mapping[str, list[str]], where: str, run: Path | None
) -> None:
    """Raise if a loss term is NaN or infinite.

    Args:
        figures: The step's figures by name.
        terms: Which of them are loss terms.
        files: The batch's files by field.
        where: The step, in words.
        run: The run folder, whose last checkpoint is kept.

    Raises:
        ZsbirError: Naming the term and files of the batch.
    """
    broken = [name for name in terms if not math.isfinite(figures[name])]
    if broken:
        named = ", ".join(name for names in files.values() for name in names[:4])
        kept = f"; the last checkpoint in {run} is intact" if run else ""
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


def out_of_memory(step: int, batch_size: int) -> ZsbirError:
    """Return the error for a GPU that ran out of memory."""
    return ZsbirError(
        f"out of GPU memory at step {step}: lower --batch-size (now {batch_size}) and raise --accumulate, or use "
        "--precision bf16"
    )
