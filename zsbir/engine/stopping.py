"""What ends a run early: Ctrl-C and SIGTERM (after the step and a checkpoint), broken images, a lack of memory."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import torch

from zsbir.engine.logging import say
from zsbir.errors import ZsbirError


class StoppedError(BaseException):
    """Raised between two steps after a signal asked to stop; ``except Exception`` does not catch it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    def ending(self) -> BaseException:
        """Return what the program sees: KeyboardInterrupt for Ctrl-C, SystemExit with 128 + the signal otherwise."""
        return KeyboardInterrupt() if self.number == signal.SIGINT else SystemExit(128 + self.number)


class Stop:
    """Notes a signal while it listens, so that each step is finished; a second Ctrl-C stops at once.

    Attributes:
        asked: The signal that came, or 0.
    """

    def __init__(self) -> None:
        self.asked, self._since, self._at_once = 0, 0.0, False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Note signals for a block; only the main thread can catch them."""
        self.asked = 0
        caught = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
        before = {number: signal.signal(number, self._note) for number in caught}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def check(self) -> None:
        """Raise StoppedError if a signal came."""
        if self.asked:
            raise StoppedError(self.asked)

    @contextmanager
    def at_once(self, really: bool = True) -> Iterator[None]:
        """Let a signal stop the block in the middle, where this leaves nothing half done, such as scoring."""
        self._at_once = really
        try:
            if really:
                self.check()
            yield
        finally:
            self._at_once = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        # One Ctrl-C may arrive twice, from the terminal and from a parent process such as torchrun.
        if self.asked and time.monotonic() - self._since > 1 and number == signal.SIGINT:
            raise KeyboardInterrupt
        if not self.asked:
            self.asked, self._since = number, time.monotonic()
            os.write(2, b"\nstopping after this step ...\n")  # print is not safe in a handler
        if self._at_once:
            self.check()


class BadImages:
    """Counts the images that were skipped, up to a limit; `messages` says why each one was."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.messages: list[str] = []

    def add(self, messages: Iterable[str]) -> None:
        """Note skipped images, and print each once; raises ZsbirError, with the list, above the limit."""
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
    """Raise ZsbirError if torch's error means that GPU memory ran out or that a worker process was killed."""
    if isinstance(error, torch.cuda.OutOfMemoryError):
        raise ZsbirError(
            f"out of GPU memory at step {step}: lower --batch-size (now {batch_size}) and raise --accumulate, or use "
            "--precision bf16"
        ) from error
    if isinstance(error, (ConnectionError, EOFError)) or "DataLoader worker" in str(error):
        kept = run is not None and (run / "last").is_dir()
        again = f"; go on with: zsbir train --resume {run} --workers 0" if kept else ""
        raise ZsbirError(
            f"a process that decodes images was killed at step {step}, perhaps for lack of memory{again}"
        ) from error
