"""Serve the index that a path leads to now: a link that is moved takes the server along."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from starlette.types import ASGIApp, Receive, Scope, Send

from zsbir.files import stamp
from zsbir.search.index import RECORD, Index

AGAIN = 60.0
"""Seconds until an index that could not be served is tried again: it may have been half copied."""


@dataclass(eq=False)
class _Served:
    """An index, its application, and how many requests are in it."""

    index: Index
    app: ASGIApp
    requests: int = 0


class Latest:
    """An application that is replaced once its path leads to another index; requests that have begun end with the old.

    Args:
        where: An index, which is served as it is; or a path to one: a link, or a folder that may be replaced.
        make: Makes the application of an index.
        device: Where the model of an index at a path runs.
        say: Called with a line for each change, and for each index that cannot be served: the old one then stays.

    Attributes:
        photos: How many photos there are now.

    Raises:
        ZsbirError: If there is no index at the path.
    """

    def __init__(
        self, where: Index | Path, make: Callable[[Index], ASGIApp], device: str, say: Callable[[str], object]
    ) -> None:
        self._path = None if isinstance(where, Index) else where
        # Its own folder, not the link: the files of an index must not change while it is open.
        index = where if isinstance(where, Index) else Index.load(os.path.realpath(where), device=device)
        self._make, self._device, self._say = make, device, say
        self._now, self._retired = _Served(index, make(index)), list[_Served]()
        self._seen, self._refused, self._again = _identity(index.folder), "", 0.0
        self._ended = threading.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] == "lifespan":  # as long as the server: no application of one index may hear of it
            while (await receive())["type"] == "lifespan.startup":
                await send({"type": "lifespan.startup.complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        served = self._now
        served.requests += 1
        try:
            await served.app(scope, receive, send)
        finally:
            served.requests -= 1

    @property
    def photos(self) -> int:
        """How many photos are served."""
        return len(self._now.index)

    def watch(self, seconds: float = 2.0) -> None:
        """Look every few seconds from now on, in a thread of its own, until `end`."""

        def run() -> None:
            while not self._ended.wait(seconds):
                self.look()

        threading.Thread(target=run, daemon=True).start()

    def end(self) -> None:
        """Stop looking, and close what was loaded here."""
        self._ended.set()
        if self._path is not None:
            self._now.index.close()

    def look(self) -> None:
        """Load what the path leads to, if that has changed; let go of an index that no request is in any more."""
        before = len(self._retired)
        while done := next((served for served in self._retired if not served.requests), None):
            self._retired.remove(done)
            done.index.close()
        if len(self._retired) < before:
            gc.collect()  # an application refers to itself, and the memory of the old model is wanted now
        if self._path is None:
            return
        folder = Path(os.path.realpath(self._path))
        identity = _identity(folder)
        if identity in (None, self._seen) or (identity == self._refused and time.monotonic() < self._again):
            return
        try:
            index = Index.load(folder, device=self._device)
            new = _Served(index, self._make(index))
        except Exception as error:  # whatever it is, no memory or a folder that goes away: the old index is still there
            if identity != self._refused:
                self._say(f"{self._path} leads to another index now, which cannot be served, so the old stays: {error}")
            self._refused, self._again = str(identity), time.monotonic() + AGAIN
            return
        self._retired.append(self._now)
        self._now, self._seen = new, identity
        self._say(f"{self._path} leads to another index now: {len(index)} photos of {folder} are served")


def _identity(folder: Path) -> str | None:
    """Return what tells an index from another one at the same place; None while there is none."""
    try:
        return f"{folder.stat().st_ino} {stamp(folder / RECORD)}"
    except OSError:
        return None
