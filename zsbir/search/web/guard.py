"""What every request passes: token, rate, limits of its body, and the headers of every answer."""

from __future__ import annotations

import asyncio
import hmac
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import prometheus_client as prometheus
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from zsbir.search.managers import Links
from zsbir.search.uploads import RefusedError

COOKIE = "zsbir-token"
ROUTES = ("/", "/search", "/photo", "/link", "/folders", "/health", "/metrics", "/openapi.json")
LOOPBACK = ("127.0.0.1", "localhost", "::1", "[::1]")


@dataclass(frozen=True)
class Settings:
    """How a server is guarded.

    Attributes:
        token: What a client must show; None: nothing (loopback only).
        hosts: Values of the Host header that are answered, without port; empty: any.
        rate: Requests a second of one client.
        burst: Requests at once of one client.
        seconds: Longest time of a search.
        waiting: Searches that may wait; more are answered 503.
        bodies: Requests with a body that are read or worked on at once.
        bodies_each: Those of one client.
        body_bytes: Bytes of all their bodies together.
        body_seconds: Longest time in which a body has to come.
        originals: Serve the photo files as they are, with their metadata, at ``/photo/{id}?original=1``.
        links: Where a photo's page in a photo manager is.
        matchers: What a search may ask for beside cosine and the matchers that are fitted on the index, by name.
    """

    token: str | None = None
    hosts: tuple[str, ...] = LOOPBACK
    rate: float = 50.0
    burst: int = 200
    seconds: float = 30.0
    waiting: int = 64
    bodies: int = 128
    bodies_each: int = 32
    body_bytes: int = 128_000_000
    body_seconds: float = 20.0
    originals: bool = False
    links: Links | None = None
    matchers: tuple[str, ...] = ()


class Rate:
    """A bucket of tokens a client; the clients seen longest ago are forgotten.

    Args:
        rate: Tokens a second.
        burst: Size of a bucket.
        clients: How many are remembered.
        clock: Seconds, rising.
    """

    def __init__(
        self, rate: float, burst: int, clients: int = 10_000, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rate, self._burst, self._clients, self._clock = rate, burst, clients, clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def allows(self, client: str) -> bool:
        """Take one token of a client's bucket; False if it is empty."""
        now = self._clock()
        with self._lock:
            level, then = self._buckets.pop(client, (float(self._burst), now))
            level = min(float(self._burst), level + (now - then) * self._rate)
            allowed = level >= 1
            self._buckets[client] = (level - allowed, now)
            while len(self._buckets) > self._clients:
                self._buckets.popitem(last=False)
        return allowed


class Measures:
    """Requests by route and status, how long they took, and the memory of the process.

    Args:
        photos: Returns the size of the index.
    """

    def __init__(self, photos: Callable[[], float]) -> None:
        self._registry = prometheus.CollectorRegistry()
        self._requests = prometheus.Counter("zsbir_requests", "Answers", ("route", "status"), registry=self._registry)
        self._seconds = prometheus.Histogram(
            "zsbir_request_seconds", "Time to an answer", ("route",), registry=self._registry
        )
        prometheus.Gauge("zsbir_photos", "Photos in the index", registry=self._registry).set_function(photos)
        prometheus.ProcessCollector(registry=self._registry)

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count one request."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def text(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return prometheus.generate_latest(self._registry)


class Guard:
    """Middleware that lets a request pass or answers 401 or 429; it counts and times all of them.

    Args:
        app: The rest of the application.
        settings: What is asked for.
        measures: Where requests are counted.
        policy: The Content-Security-Policy of every answer.
    """

    def __init__(self, app: ASGIApp, settings: Settings, measures: Measures, policy: str) -> None:
        self._app, self._settings, self._measures = app, settings, measures
        self._rate = Rate(settings.rate, settings.burst)
        self._headers = {
            "content-security-policy": policy,
            "x-content-type-options": "nosniff",
            "referrer-policy": "no-referrer",
            "cross-origin-resource-policy": "same-origin",
            "x-frame-options": "DENY",
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in self._headers.items():
                    headers[name] = value
            await send(message)

        try:
            refusal = self._refuse(Request(scope))
            await (refusal or self._app)(scope, receive, sending)
        finally:
            route = "/" + scope["path"].lstrip("/").partition("/")[0]
            self._measures.request(route if route in ROUTES else "other", status, time.perf_counter() - began)

    def _refuse(self, request: Request) -> Response | None:
        client = request.client.host if request.client else "?"
        if not self._rate.allows(client):
            return problem(429, "too many requests: wait a moment", {"retry-after": "1"})
        path, token = request.scope["path"], self._settings.token
        if token is None or path == "/health":
            return None
        bearer = request.headers.get("authorization", "").removeprefix("Bearer ").strip()
        if _same(bearer or request.cookies.get(COOKIE, ""), token):
            return None
        if path == "/" and _same(request.query_params.get("token", ""), token):
            # Once in the address, then in a cookie: it does not stay in the browser's history.
            answer = RedirectResponse("/", status_code=303)
            answer.set_cookie(COOKIE, token, httponly=True, samesite="strict", max_age=86_400 * 30)
            return answer
        return problem(401, "this server asks for its token", {"www-authenticate": "Bearer"})


class Bodies:
    """The bodies that are being read or worked on, counted while their bytes come.

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


def problem(status: int, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """Return an error as JSON: ``{"error": message}``."""
    return JSONResponse({"error": message}, status_code=status, headers=headers)


def _same(given: str, wanted: str) -> bool:
    return hmac.compare_digest(given.encode(), wanted.encode())
