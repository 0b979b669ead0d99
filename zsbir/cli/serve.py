"""A web page to draw on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional

from zsbir.cli._options import at_least


def serve(
    index: Annotated[Path, Positional],
    host: str = "127.0.0.1",
    port: int = 8080,
    token: str | None = None,
    name: tuple[str, ...] = (),
    originals: bool = False,
    link: str | None = None,
    matcher: tuple[str, ...] = (),
    rate: float = 50.0,
    max_upload: int = 8_000_000,
    device: Literal["auto", "cpu", "cuda"] = "auto",
) -> None:
    """Serve a page to draw on and a JSON API, on this machine only unless told otherwise.

    Example: zsbir serve my.index --port 8000

    Args:
        index: What `zsbir index` wrote, or a link to it; once it leads to another index, that one is served.
        host: Address to bind; any but the loopback asks clients for a token.
        port: Port to bind; 0: any free one.
        token: The token; default: the environment's ZSBIR_TOKEN, or one is made and printed.
        name: Further host names of the server, such as a proxy's.
        originals: Also serve the photo files as they are, with position and camera data.
        link: Each photo's page in your photo manager, with {id} (Immich, PhotoPrism; the key to its API is in
            IMMICH_API_KEY or PHOTOPRISM_TOKEN) or {path} in it: https://photos.example/photos/{id}.
        matcher: Matchers that the page and the API offer beside cosine and those fitted on the index, see `zsbir list`;
            each looks at the 1,000 nearest photos.
        rate: Requests a second of one client.
        max_upload: Largest drawing in bytes.
        device: Where to run.
    """
    import os
    from dataclasses import replace
    from functools import partial

    from zsbir.matchers import MATCHERS
    from zsbir.methods.embedding import as_device
    from zsbir.search.managers import Links
    from zsbir.search.uploads import Limits
    from zsbir.search.web.serve import serve as run
    from zsbir.search.web.serve import settings_for

    at_least(max_upload=(max_upload, 1))
    settings = settings_for(host, token or os.environ.get("ZSBIR_TOKEN") or None, name, originals, rate)
    for wanted in matcher:
        MATCHERS.build(wanted)  # a wrong name is refused before the work
    settings = replace(settings, links=None if link is None else Links(link), matchers=matcher)

    def ready(address: str, photos: int) -> None:
        print(f"{photos} photos of {index} at {address} (Ctrl-C stops)", flush=True)

    where, say = str(as_device(device)), partial(print, flush=True)
    run(index, host, port, settings, Limits(size=max_upload), ready, where, say)
