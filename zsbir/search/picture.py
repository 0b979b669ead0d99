"""A picture of what was found."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageOps

from zsbir.data.images import load_image
from zsbir.errors import ZsbirError
from zsbir.search.index import Hit


def draw_hits(rows: Sequence[tuple[Image.Image | None, Sequence[Hit]]], cell: int = 128) -> Image.Image:
    """Draw a row a query: the sketch (nothing for a text), then its photos with their scores.

    Args:
        rows: Each query with its hits, best first.
        cell: Side of an image in pixels.
    """
    gap, line = 6, 14
    columns = 1 + max((len(hits) for _, hits in rows), default=0)
    size = (columns * (cell + gap) + 3 * gap, max(1, len(rows)) * (cell + line + gap) + gap)
    picture = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(picture)
    for number, (query, hits) in enumerate(rows):
        top = gap + number * (cell + line + gap)
        if query is not None:
            pen.rectangle((gap - 1, top - 1, gap + cell, top + cell), outline=(120, 120, 120))
            picture.paste(ImageOps.pad(query.convert("RGB"), (cell, cell), color="white"), (gap, top))
        for column, hit in enumerate(hits, start=1):
            left = 3 * gap + column * (cell + gap)
            try:
                photo = ImageOps.pad(load_image(hit.path), (cell, cell), color="white")
            except ZsbirError:  # deleted since it was indexed; its score still stands below
                photo = Image.new("RGB", (cell, cell), "lightgrey")
            picture.paste(photo, (left, top))
            pen.text((left, top + cell), f"{hit.score:.3f}", fill=(40, 40, 40))
    return picture
