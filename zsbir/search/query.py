"""What a user may search with: an image, a file, strokes, or the bytes of an upload."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from zsbir.data.formats import kind_of, split_record
from zsbir.data.images import load_image
from zsbir.data.strokes import StrokeStyle, draw_strokes
from zsbir.errors import ZsbirError

Query = Image.Image | str | Path | Sequence[Any]
"""An image, the path of a file, or strokes ``[[xs, ys], ...]``."""


def open_query(query: Query) -> Image.Image:
    """Return a sketch as RGB.

    Raises:
        ZsbirError: If it cannot be read; the message names the file.
    """
    if isinstance(query, Image.Image):
        return query.convert("RGB")
    if isinstance(query, (str, Path)):
        name = str(query)
        return load_image(f"{name}#0" if kind_of(name) == "ndjson" and split_record(name)[1] is None else name)
    try:
        return draw_strokes(list(query), StrokeStyle())
    except (ValueError, TypeError, IndexError) as error:
        raise ZsbirError(f"the strokes cannot be drawn: {error}; they are lists [xs, ys] of equal length") from None
