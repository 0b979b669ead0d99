"""uvicorn with limits: connections that never ask for anything do not keep out those that do."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_SECONDS = 10.0
"""A connection may take so long to send the head of a request."""

CONNECTIONS = 500
"""One more than so many, and the one that has been silent longest is closed."""


class Connection(H11Protocol):
    """uvicorn's HTTP connection, with a time limit on the head of a request and a limit on their number."""

    _timer: asyncio.TimerHandle | None = None
    _since = 0.0

    def connection_made(self, transport: Any) -> None:
        """Start the clock; make room."""
        super().connection_made(transport)
        self._wait()
        if len(self.connections) > CONNECTIONS:
            silent = [one for one in self.connections if isinstance(one, Connection) and one._silent]
            min(silent, key=lambda one: one._since).transport.abort()

    def data_received(self, data: bytes) -> None:
        """Take data, and stop the clock once a request is there."""
        super().data_received(data)
        if not self._silent:
            self._stop()
        elif self._timer is None:
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        self._stop()
        super().connection_lost(exc)

    @property
    def _silent(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _wait(self) -> None:
        self._since = self.loop.time()
        self._timer = self.loop.call_later(HEADER_SECONDS, self.transport.abort)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Server(uvicorn.Server):
    """Serves an application until it is interrupted.

    Args:
        app: The application.
        ready: Called once connections are answered.
    """

    def __init__(self, app: ASGIApp, ready: Callable[[], None] = lambda: None) -> None:
        config = uvicorn.Config(
            app,
            port=0,
            http=Connection,
            ws="none",
            log_level="warning",
            timeout_keep_alive=15,
            server_header=False,
            proxy_headers=False,  # else any client could choose the address its rate is counted under
        )
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to listen."""
        await super().startup(sockets)
        self._ready()
