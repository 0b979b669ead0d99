"""Running the web application."""

from __future__ import annotations

import math
import secrets
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path

from zsbir.errors import ZsbirError, needing
from zsbir.search.index import Index
from zsbir.search.uploads import Limits
from zsbir.search.web.guard import LOOPBACK, Settings


def settings_for(
    host: str, token: str | None = None, hosts: tuple[str, ...] = (), originals: bool = False, rate: float = 50.0
) -> Settings:
    """Choose what the guard asks for: off the loopback there is always a token, made here if none is given.

    Args:
        host: The address that is bound.
        token: What clients must show.
        hosts: Names the server is called by, besides its own; needed behind a proxy on the loopback.
        originals: Serve photos as they are.
        rate: Requests a second of one client.

    Raises:
        ZsbirError: If the token is short enough to be guessed, or the rate is not above 0.
    """
    if not (math.isfinite(rate) and rate > 0):
        raise ZsbirError(f"--rate {rate}: the requests a second of one client must be a number above 0")
    if token is not None and len(token) < 16:
        raise ZsbirError("the token is too short to be safe: give at least 16 characters, or none and one is made")
    local = host in LOOPBACK
    if not local and token is None:
        token = secrets.token_urlsafe(24)
    known = (*LOOPBACK, f"[{host}]" if ":" in host else host.lower(), *(name.lower() for name in hosts))
    # Off the loopback the token guards: a foreign page can neither know it nor send its cookie.
    return Settings(token=token, hosts=known if local or hosts else (), originals=originals, rate=rate)


def serve(
    index: Index | str | Path,
    host: str = "127.0.0.1",
    port: int = 8080,
    settings: Settings | None = None,
    limits: Limits | None = None,
    ready: Callable[[str, int], None] = lambda address, photos: None,
    device: str = "cpu",
    say: Callable[[str], object] = lambda line: None,
) -> None:
    """Serve an index until interrupted.

    Args:
        index: What is searched; or a path to it: once that leads to another index, this one is served.
        host: Address to bind.
        port: Port to bind; 0: any free one.
        settings: See `settings_for`, which makes the default.
        limits: Of uploads.
        ready: Called with the page's address and the number of photos once the port accepts.
        device: Where the model of an index at a path runs.
        say: Called with a line when the path leads to another index.

    Raises:
        ZsbirError: If there is no index at the path, a package is missing, or the port cannot be bound.
    """
    with needing("serving", "zsbir[web]"):
        from zsbir.search.web.app import create_app
        from zsbir.search.web.latest import Latest
        from zsbir.search.web.server import Server
    settings = settings or settings_for(host)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind((host, port))
        except (OSError, OverflowError) as error:
            raise ZsbirError(f"cannot serve on {host}:{port}: {error}; give another --host or --port") from None
        name = reachable(host)
        query = f"/?token={settings.token}" if settings.token else "/"
        address = f"http://{f'[{name}]' if ':' in name else name}:{bound.getsockname()[1]}{query}"
        where = index if isinstance(index, Index) else Path(index)
        latest = Latest(where, partial(create_app, settings=settings, limits=limits), device, say)
        latest.watch()
        try:
            Server(latest, lambda: ready(address, latest.photos)).run(sockets=[bound])
        finally:
            latest.end()


def reachable(host: str) -> str:
    """Return an address that other machines can open: for ``0.0.0.0`` and ``::`` the one packets to others leave from.

    >>> reachable("127.0.0.1")
    '127.0.0.1'
    """
    elsewhere = {"0.0.0.0": (socket.AF_INET, "192.0.2.1"), "::": (socket.AF_INET6, "2001:db8::1")}
    if host not in elsewhere:
        return host
    family, other = elsewhere[host]
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((other, 9))  # sends nothing: it only chooses the way
            return str(probe.getsockname()[0])
    except OSError:
        return "localhost"
