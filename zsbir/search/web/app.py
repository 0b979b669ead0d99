"""The Starlette application over an index."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import json
import re
from collections.abc import Callable
from functools import lru_cache, partial
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

import anyio
from PIL import Image
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from zsbir.data.images import load_image
from zsbir.errors import ZsbirError
from zsbir.search.catalog import Entry
from zsbir.search.index import Hit, Index
from zsbir.search.stores.base import Vectors
from zsbir.search.uploads import Limits, RefusedError
from zsbir.search.web.guard import Bodies, Guard, Measures, Settings, problem
from zsbir.search.web.request import Wanted, wanted

T = TypeVar("T")

_KEPT = 2_000  # thumbnails held in memory, some 20 kB each


class Site:
    """The handlers of one index.

    Args:
        index: What is searched.
        settings: The guard's, and what may be asked for.
        limits: Of uploads.
    """

    def __init__(self, index: Index, settings: Settings, limits: Limits) -> None:
        self.index, self.settings, self.limits = index, settings, limits
        self.matchers = sorted({*index.fitted_matchers(), *settings.matchers} - {"cosine"})
        self.measures = Measures(lambda: len(index))
        self.bodies = Bodies(settings, limits.size)
        # The page's style and script lie in files of their own, and are sent in it.
        self.page = re.sub(r"(?<=>)page\.(css|js)(?=<)", lambda name: f"\n{_file(name[0])}", _file("page.html"))
        self.description = _file("openapi.json")
        self._thumbnail = lru_cache(_KEPT)(_thumbnail)
        self._places = asyncio.Semaphore(2)
        self._asking = asyncio.Semaphore(32)  # queries waiting for the model, which takes all of them as its next batch
        self._leading = asyncio.Semaphore(4)  # links: a slow manager delays no search
        self._waiting = 0

    async def home(self, request: Request) -> Response:
        """The page."""
        values = {"text": self.index.embedder.reads_text, "originals": self.settings.originals,
                  "matchers": self.matchers}  # fmt: skip
        return HTMLResponse(self.page.replace('data-can=""', f'data-can="{escape(json.dumps(values))}"'))

    async def search(self, request: Request) -> Response:
        """Photos for a drawing, strokes, a text or another photo."""
        async with self.bodies.read(request) as body:
            asked = await self._working(partial(wanted, request.headers, request.query_params, body, self.limits))
        vector = None
        if asked.like is None:
            drawn = partial(self.index.vector, asked.image, asked.text, asked.mix)
            vector = await self._working(drawn, self._asking)
        hits = await self._working(partial(self._find, asked, vector))
        return JSONResponse({"hits": self._plain(hits)})

    async def photo(self, request: Request) -> Response:
        """A photo of the index, by its number: a new JPEG without metadata."""
        number, entry = self._entry(request)
        if request.query_params.get("original") == "1":
            if not self.settings.originals:
                return problem(403, "originals are not served here")
            return FileResponse(entry.path)
        side = 1024 if request.query_params.get("size") == "large" else 256
        try:
            data = await self._working(partial(self._thumbnail, number, entry.path, side))
        except ZsbirError:
            return problem(404, f"photo {number} is no longer there")
        return Response(data, media_type="image/jpeg", headers={"cache-control": "private, max-age=3600"})

    async def link(self, request: Request) -> Response:
        """Lead to a photo's page in the photo manager."""
        number, entry = self._entry(request)
        links = self.settings.links
        try:
            page = None if links is None else await self._working(partial(links.page, entry), self._leading)
        except ZsbirError as error:
            return problem(502, str(error))
        if not page:
            return problem(404, f"the photo manager has no page that is surely photo {number}'s")
        return RedirectResponse(page, status_code=303)

    async def folders(self, request: Request) -> Response:
        """The folders that a search can be limited to."""
        return JSONResponse({"folders": sorted(await self._working(self._folders))})

    async def health(self, request: Request) -> Response:
        """Whether the server works."""
        return JSONResponse({"status": "ok", "photos": len(self.index)})

    async def metrics(self, request: Request) -> Response:
        """Counters for Prometheus."""
        return Response(self.measures.text(), media_type="text/plain; version=0.0.4")

    async def describe(self, request: Request) -> Response:
        """The API's description."""
        return Response(self.description, media_type="application/json")

    async def _working(self, work: Callable[[], T], places: asyncio.Semaphore | None = None) -> T:
        """Run slow work in a thread, two at a time or as many as `places`, with a time limit and a bounded queue."""
        if self._waiting >= self.settings.waiting:
            raise HTTPException(503, "the server is busy: try again in a moment")
        self._waiting += 1
        try:
            async with asyncio.timeout(self.settings.seconds), places or self._places:
                # A thread cannot be stopped: at the time limit the client is answered and the thread ends by itself.
                return await anyio.to_thread.run_sync(work, abandon_on_cancel=True)
        finally:
            self._waiting -= 1

    def _entry(self, request: Request) -> tuple[int, Entry]:
        name = request.path_params["number"]
        number = int(name) if name.isascii() and name.isdigit() and len(name) < 19 else -1
        entry = self.index.catalog.entry(number)
        if entry is None:
            raise HTTPException(404, f"there is no photo {name[:20]}")
        return number, entry

    def _find(self, asked: Wanted, vector: Vectors | None) -> list[Hit]:
        folder = None if asked.folder is None else self._folders().get(asked.folder)
        if asked.folder is not None and folder is None:
            raise RefusedError("there is no such folder in the index", 422)
        if asked.matcher not in (None, "cosine", *self.matchers):
            raise RefusedError(f"the matchers here are {', '.join(('cosine', *self.matchers))}", 422)
        if vector is None:
            assert asked.like is not None
            return self.index.like(asked.like, asked.k, folder=folder)
        return self.index.nearest(vector, asked.k, asked.matcher, folder=folder)

    def _roots(self) -> list[Path]:
        """Return the indexed folders, inner ones first; for a list, the folder that it lies in."""
        sources = [Path(source) for source in self.index.catalog.sources()]
        found = {p.parent if p.suffix and not p.is_dir() else p for p in sources}
        return sorted(found, key=lambda p: (-len(p.parts), p))

    def _shown(self, path: Path, roots: list[Path]) -> Path:
        """Return a photo's path relative to its indexed folder, whose own place is not shown."""
        for root in roots:
            if path.is_relative_to(root):
                return path.relative_to(root if len(roots) == 1 else root.parent)
        return Path(path.name)

    def _folders(self) -> dict[str, Path]:
        """Return the folders that photos are in, at the first level: shown name to path."""
        roots, found = self._roots(), {}
        for folder in self.index.catalog.folders():
            photo = Path(folder, "any")
            parts = self._shown(photo, roots).parts
            if len(parts) > 1:
                found[parts[0]] = photo.parents[len(parts) - 2]
        return found

    def _plain(self, hits: list[Hit]) -> list[dict[str, Any]]:
        roots, links = self._roots(), self.settings.links
        rows: list[dict[str, Any]] = [
            {"id": hit.id, "score": round(hit.score, 6), "path": self._shown(Path(hit.path), roots).as_posix()}
            for hit in hits
        ]
        for row, hit in zip(rows, hits, strict=True):
            if links is not None:  # the manager is asked once a link is followed
                row["link"] = f"link/{hit.id}" if links.asks else links.of_path(hit.path)
        return rows


def _file(name: str) -> str:
    return files("zsbir.search.web").joinpath(name).read_text(encoding="utf-8")


def _thumbnail(number: int, path: str, side: int) -> bytes:
    """Return a new JPEG from pixels alone: position, camera and comments of the file stay where they are.

    Once its content changes, a photo has another number: `number` makes sure that no old thumbnail is shown.
    """
    image = load_image(path)
    clean = Image.frombytes("RGB", image.size, image.tobytes())
    clean.thumbnail((side, side))
    stream = io.BytesIO()
    clean.save(stream, "JPEG", quality=85)
    return stream.getvalue()


def create_app(index: Index, settings: Settings | None = None, limits: Limits | None = None) -> Starlette:
    """Make the web application of an index.

    Args:
        index: What is searched.
        settings: The guard's; default: loopback, no token.
        limits: Of uploads.
    """
    settings = settings or Settings()
    site = Site(index, settings, limits or Limits())
    routes = [
        Route("/", site.home),
        Route("/search", site.search, methods=["POST"]),
        Route("/photo/{number}", site.photo),
        Route("/link/{number}", site.link),
        Route("/folders", site.folders),
        Route("/health", site.health),
        Route("/metrics", site.metrics),
        Route("/openapi.json", site.describe),
    ]
    guard = Middleware(Guard, settings=settings, measures=site.measures, policy=_policy(site.page))
    # A page elsewhere may point its own name at this machine; it must not read the answers.
    hosts = Middleware(TrustedHostMiddleware, allowed_hosts=list(settings.hosts) or ["*"], www_redirect=False)
    handlers: Any = dict.fromkeys((ZsbirError, HTTPException, TimeoutError, ClientDisconnect, Exception), _failed)
    return Starlette(routes=routes, middleware=[guard, hosts], exception_handlers=handlers)


def _policy(page: str) -> str:
    """Allow the page's own script and style by their digests, its own photos, and nothing else."""

    def digests(tag: str) -> str:
        found = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        return " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in found)

    return (
        f"default-src 'none'; script-src {digests('script')}; style-src {digests('style')}; "
        "img-src 'self' blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


async def _failed(request: Request, error: Exception) -> Response:
    match error:
        case RefusedError():
            return problem(error.status, str(error))
        case ZsbirError():
            return problem(400, str(error))
        case HTTPException():
            return problem(error.status_code, str(error.detail), dict(error.headers or {}))
        case TimeoutError():
            return problem(503, "the search took too long")
        case ClientDisconnect():
            return Response(status_code=400)  # nobody reads it
    return problem(500, "something went wrong here; the server's log has it")
