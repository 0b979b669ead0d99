"""Ctrl-C and SIGTERM during training: the step is finished, a checkpoint written, then the run ends."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StoppedError(BaseException):
    """Raised between two steps when a signal has asked for the end; no ``except Exception`` takes it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    def ending(self) -> BaseException:
        """Return what the program sees: KeyboardInterrupt for Ctrl-C, SystemExit with 128 + the signal otherwise."""
        return KeyboardInterrupt() if self.number == signal.SIGINT else SystemExit(128 + self.number)


class Stop:
    """Notes a signal while it listens, so that no step is torn; a second Ctrl-C ends at once.

    Attributes:
        asked: The signal that came, or 0.
    """

    def __init__(self) -> None:
        self.asked, self._since, self._at_once = 0, 0.0, False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Note signals for a block; they can be caught in the main thread alone."""
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
        """Let a signal end the block in its middle, where nothing is torn by it, such as scoring."""
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
