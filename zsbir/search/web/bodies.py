"""Bodies of requests, read in bounded time and memory."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.exceptions import HTTPException
from starlette.requests import Request

from zsbir.search.uploads import RefusedError
from zsbir.search.web.guard import Settings


class Bodies:
    """The bodies that are being read or worked on, counted as their bytes come.

    Args:
        settings: How many there may be, how large together, and how long one may take to come.
        size: Bytes of one.
    """

    def __init__(self, settings: Settings, size: int) -> None:
        self._settings, self._size = settings, size
        self._bytes = 0
        self._clients: Counter[str] = Counter()

    @asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[bytes]:
        """Read the body of a request; it counts until the context ends.

        Raises:
            RefusedError: If it is larger than one may be.
            HTTPException: 408 if it comes too slowly, 429 if this client sends too many at once, 503 if all do.
        """
        client = request.client.host if request.client else "?"
        declared = request.headers.get("content-length", "")
        if declared.isdigit() and int(declared[:20]) > self._size:
            raise self._too_large()
        if self._clients[client] >= self._settings.bodies_each:
            raise HTTPException(429, "too many requests at once: wait for an answer", {"connection": "close"})
        if self._clients.total() >= self._settings.bodies:
            raise HTTPException(503, "the server is busy: try again in a moment", {"connection": "close"})
        self._clients[client] += 1
        held = 0
        try:
            parts = []
            try:
                async with asyncio.timeout(self._settings.body_seconds):
                    async for part in request.stream():
                        held += len(part)
                        self._bytes += len(part)
                        if held > self._size:
                            raise self._too_large()
                        if self._bytes > max(self._settings.body_bytes, self._size):
                            raise HTTPException(503, "the server is busy: try again", {"connection": "close"})
                        parts.append(part)
            except TimeoutError:
                raise HTTPException(408, "the request came too slowly", {"connection": "close"}) from None
            yield b"".join(parts)
        finally:
            self._bytes -= held
            self._clients[client] -= 1
            if not self._clients[client]:
                del self._clients[client]

    def _too_large(self) -> RefusedError:
        return RefusedError(f"the request has more than {self._size} bytes", 413)
