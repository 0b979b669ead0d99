"""Pages of photos in a photo manager: Immich, PhotoPrism, or anything that opens a path. The manager is only read."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import unicodedata
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote, urlencode

from zsbir.errors import ZsbirError
from zsbir.search.catalog import Entry

SECONDS = 10.0
"""How long a manager may take to answer."""

_PAGE = 1000


class Links:
    """Makes the address of a photo's page.

    Args:
        template: An address with ``{path}`` in it, or with ``{id}``, the manager's own id of the photo.
        keys: Where a key to the manager's API is: ``IMMICH_API_KEY`` or ``PHOTOPRISM_TOKEN``; default: the environment.

    Attributes:
        asks: Whether the manager is asked for its id.

    Raises:
        ZsbirError: If the template has not exactly one of both, or ``{id}`` and not exactly one key.
    """

    def __init__(self, template: str, keys: Mapping[str, str] | None = None) -> None:
        self._template, self.asks = template, "{id}" in template
        if self.asks == ("{path}" in template):
            raise ZsbirError(f"--link {template!r} needs either {{id}} or {{path}} to stand for the photo")
        if not self.asks:
            return
        keys = os.environ if keys is None else keys
        given = [(name, keys[name]) for name in _MANAGERS if keys.get(name)]
        # Everything before the page's own path: a manager may lie in a folder of its server.
        server = re.match(r"https?://[^/?#{]+([^?#{]*(?=/photos/|/library/))?", template)
        if len(given) != 1 or server is None:
            raise ZsbirError(
                "--link with {id} takes an http address, and the key to the manager's API from the environment: "
                f"set one of {' and '.join(_MANAGERS)}"
            )
        (self._variable, self._key), self._server = given[0], server.group()

    def page(self, photo: Entry) -> str | None:
        """Return the address of a photo's page, or None if the manager lacks that photo, or has several like it.

        Raises:
            ZsbirError: If the manager does not answer, or refuses the key; or the photo cannot be read.
        """
        if not self.asks:
            return self.of_path(photo.path)
        try:
            found = set(_MANAGERS[self._variable](photo, self._ask))
        except (LookupError, TypeError, AttributeError, ValueError):  # JSON of another form
            raise ZsbirError(f"{self._server} does not answer like the manager that {self._variable} is for") from None
        return self._template.replace("{id}", quote(found.pop(), safe="")) if len(found) == 1 else None

    def of_path(self, path: str) -> str:
        """Return the address where the template has ``{path}``."""
        return self._template.replace("{path}", quote(Path(path).as_posix()))

    def _ask(self, path: str, headers: str, body: Mapping[str, Any] | None = None) -> Any:
        """Return what the manager answers; `headers` says in which one the key goes, and before what."""
        name, _, before = headers.partition(" ")
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._server + path, data, {name: before + self._key})
        request.add_header("content-type", "application/json")
        try:
            with urllib.request.build_opener(_Stay).open(request, timeout=SECONDS) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            why = {401: f"refuses the key in {self._variable}", 403: f"does not let the key in {self._variable} search"}
            raise ZsbirError(
                f"the photo manager at {self._server} {why.get(error.code, f'answers with the error {error.code}')}"
            ) from None
        except (OSError, http.client.HTTPException) as error:
            raise ZsbirError(f"the photo manager at {self._server} does not answer: {error}") from None


class _Stay(urllib.request.HTTPRedirectHandler):
    """Follows no redirection: the key would go with it."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        """Return nothing, which makes the redirection an error."""


_Ask = Callable[..., Any]


def _immich(photo: Entry, ask: _Ask) -> Iterator[str]:
    """Give the ids of assets whose path ends as the photo's does below the indexed folder; longer agreements win.

    Routes: ``POST /api/search/metadata``, which needs the permission ``asset.read``.
    """
    path = PurePosixPath(unicodedata.normalize("NFC", Path(photo.path).as_posix()))
    inside = Path(photo.path).is_relative_to(photo.source)
    best, page = len(path.parts) - len(Path(photo.source).parts) if inside else 1, 1
    agreeing: list[str] = []
    while page:
        wanted = {"originalPath": f"/{Path(photo.path).name}", "withExif": True, "size": _PAGE, "page": page}
        answer = ask("/api/search/metadata", "x-api-key ", wanted)["assets"]
        for asset in answer["items"]:
            size = (asset.get("exifInfo") or {}).get("fileSizeInByte")
            length = _agreement(path, PurePosixPath(unicodedata.normalize("NFC", asset["originalPath"])))
            if length >= best and size in (None, photo.size):
                agreeing = [*(agreeing if length == best else []), asset["id"]]
                best = length
        page = int(answer.get("nextPage") or 0)
    yield from agreeing


def _agreement(one: PurePosixPath, other: PurePosixPath) -> int:
    """Return how many last parts two paths share."""
    pairs = zip(reversed(one.parts), reversed(other.parts), strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(one.parts), len(other.parts)))


def _photoprism(photo: Entry, ask: _Ask) -> Iterator[str]:
    """Give the UIDs of photos with a file of the same content. Route: ``GET /api/v1/photos``."""
    try:
        with Path(photo.path).open("rb") as file:
            digest = hashlib.file_digest(file, "sha1").hexdigest()
    except OSError as error:
        raise ZsbirError(f"{photo.path} cannot be read: {error}") from None
    for row in ask(f"/api/v1/photos?{urlencode({'count': _PAGE, 'hash': digest})}", "authorization Bearer "):
        yield row["UID"]


_MANAGERS = {"IMMICH_API_KEY": _immich, "PHOTOPRISM_TOKEN": _photoprism}
