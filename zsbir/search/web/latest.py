"""Serve the index that a path leads to now: a link that is moved takes the server along."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

from starlette.types import ASGIApp, Receive, Scope, Send

from zsbir.errors import ZsbirError
from zsbir.files import stamp
from zsbir.search.index import RECORD, Index

Say = Callable[[str], object]


class Latest:
    """An application that is replaced once its path leads to another index; requests that have begun end with the old.

    Args:
        index: What is served first.
        path: A link, or a folder that may be replaced.
        make: Makes the application of an index.
        say: Called with a line for each change, and for each index that cannot be served: the old one then stays.
    """

    def __init__(self, index: Index, path: Path, make: Callable[[Index], ASGIApp], say: Say) -> None:
        self._app, self._device = make(index), index.embedder.device
        self._path, self._make, self._say = path, make, say
        self._seen, self._refused = _identity(index.folder), ""
        self._ended = threading.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        await self._app(scope, receive, send)

    def watch(self, seconds: float = 2.0) -> None:
        """Look every few seconds from now on, in a thread of its own, until `end`."""

        def run() -> None:
            while not self._ended.wait(seconds):
                self.look()

        threading.Thread(target=run, daemon=True).start()

    def end(self) -> None:
        """Stop looking."""
        self._ended.set()

    def look(self) -> None:
        """Load what the path leads to, if that has changed."""
        # Its own folder, not the link: the files of an index must not change while it is open.
        folder = Path(os.path.realpath(self._path))
        identity = _identity(folder)
        if identity in (None, self._seen):
            return
        try:
            index = Index.load(folder, device=self._device)
        except ZsbirError as error:
            if identity != self._refused:  # it is tried again: it may be being copied
                self._say(f"{self._path} leads to another index now, which cannot be served, so the old stays: {error}")
            self._refused = identity
            return
        self._app, self._seen = self._make(index), identity  # the old one is let go by its last request
        self._say(f"{self._path} leads to another index now: {len(index)} photos of {folder} are served")


def _identity(folder: Path) -> str | None:
    """Return what tells an index from another one at the same place; None while there is none."""
    try:
        return f"{folder.stat().st_ino} {stamp(folder / RECORD)}"
    except OSError:
        return None
