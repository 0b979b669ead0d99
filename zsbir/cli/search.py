"""Find photos by drawing."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from zsbir.cli._options import matcher_spec
from zsbir.errors import ZsbirError

CANDIDATES = 1000


def search(
    index: Annotated[Path, Positional],
    sketches: Annotated[tuple[Path, ...], Positional] = (),
    k: Annotated[int, arg(aliases=["-k"])] = 10,
    text: str | None = None,
    mix: float = 0.5,
    matcher: str | None = None,
    set: tuple[str, ...] = (),
    candidates: int = CANDIDATES,
    json: bool = False,
    picture: Path | None = None,
    link: str | None = None,
    model: str | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
) -> None:
    """Find the photos of an index that show what was drawn.

    Example: zsbir search my.index sketch.png -k 20 --picture found.png

    Args:
        index: What `zsbir index` wrote.
        sketches: PNG, JPEG, SVG or QuickDraw files (name.ndjson#17 for the 17th drawing, counted from 0).
        k: Photos for each sketch.
        text: Words to search for, alone or together with each sketch.
        mix: Weight of the text beside a sketch, 0 to 1.
        matcher: How photos are scored, see `zsbir list`; default: cosine.
        set: Settings of the matcher, key=value.
        candidates: How many of the nearest photos another matcher looks at.
        json: Print JSON.
        picture: Also draw sketches and photos into this file.
        link: Also print each photo's page in your photo manager, see `zsbir serve --help`.
        model: The model for the sketches; it must be the one that made the index. Default: the index's own copy.
        device: Where to run.
    """
    from PIL import Image

    from zsbir.files import writing
    from zsbir.methods.embedding import as_device
    from zsbir.search.index import Hit, Index
    from zsbir.search.managers import Links
    from zsbir.search.picture import draw_hits
    from zsbir.search.query import open_query

    if not sketches and text is None:
        raise ZsbirError("there is nothing to search for: give sketch files, --text, or both")
    how = matcher_spec(matcher, set) if set else matcher  # a plain name finds what is fitted on the index
    if candidates != CANDIDATES and matcher is None:
        raise ZsbirError("--candidates is for other matchers than cosine: name one with --matcher")
    if mix != 0.5 and (text is None or not sketches):
        raise ZsbirError("--mix weighs --text against the sketches: give both")
    links = None if link is None else Links(link)
    opened = Index.load(index, model, str(as_device(device)))
    images: list[Image.Image | None] = [open_query(sketch) for sketch in sketches] or [None]
    rows: list[list[Hit]] = [
        opened.search(image, k, text=text, mix=mix, matcher=how, candidates=candidates) for image in images
    ]
    pages: dict[int, str | None] = {}
    if links is not None:
        entries = {hit.id: opened.catalog.entry(hit.id) for hits in rows for hit in hits}
        pages = {number: links.page(entry) for number, entry in entries.items() if entry is not None}
    opened.close()
    names = [str(sketch) for sketch in sketches] or [str(text)]
    if json:
        found = [
            {"query": name, "hits": [
                {"path": hit.path, "score": hit.score, "id": hit.id, **({"link": pages[hit.id]} if pages else {})}
                for hit in hits
            ]}
            for name, hits in zip(names, rows, strict=True)
        ]  # fmt: skip
        print(json_module.dumps(found, indent=1, ensure_ascii=False))
    else:
        for name, hits in zip(names, rows, strict=True):
            print(name)
            for hit in hits:
                print(f"  {hit.score:7.4f}  {hit.path}")
                if pages.get(hit.id):
                    print(f"           {pages[hit.id]}")
    if picture is not None:
        with writing("picture", picture):
            draw_hits(list(zip(images, rows, strict=True))).save(picture)
