"""Many readers or one writer."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class SharedLock:
    """Readers run together; a writer runs alone, and new readers wait for it. No thread takes it twice."""

    def __init__(self) -> None:
        self._state = threading.Condition()
        self._readers, self._written = 0, False

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Hold the lock together with other readers."""
        with self._state:
            self._state.wait_for(lambda: not self._written)
            self._readers += 1
        try:
            yield
        finally:
            with self._state:
                self._readers -= 1
                self._state.notify_all()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the lock alone."""
        with self._state:
            self._state.wait_for(lambda: not self._written)
            self._written = True
            self._state.wait_for(lambda: self._readers == 0)
        try:
            yield
        finally:
            with self._state:
                self._written = False
                self._state.notify_all()
