"""Many readers or one writer."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class SharedLock:
    """Readers run together; a writer runs alone, and new readers wait for it."""

    def __init__(self) -> None:
        self._state = threading.Condition()
        self._readers = 0
        self._writer: int | None = None
        self._depth = 0

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Hold the lock together with other readers; inside a write of the same thread it is already held."""
        me = threading.get_ident()
        with self._state:
            self._state.wait_for(lambda: self._writer in (None, me))
            self._readers += self._writer is None
            counted = self._writer is None
        try:
            yield
        finally:
            with self._state:
                self._readers -= counted
                self._state.notify_all()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the lock alone; a thread may take it again while it has it."""
        me = threading.get_ident()
        with self._state:
            self._state.wait_for(lambda: self._writer in (None, me))
            self._writer = me
            self._depth += 1
            self._state.wait_for(lambda: self._readers == 0)
        try:
            yield
        finally:
            with self._state:
                self._depth -= 1
                if not self._depth:
                    self._writer = None
                self._state.notify_all()
