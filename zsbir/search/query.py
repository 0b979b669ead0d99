"""What a user may search with: an image, a file, strokes, or the bytes of an upload."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from zsbir.data.formats import kind_of, split_record
from zsbir.data.images import load_image
from zsbir.data.strokes import StrokeStyle, draw_strokes
from zsbir.errors import ZsbirError

Query = Image.Image | npt.NDArray[Any] | str | Path | Sequence[Any]
"""An image, its pixels (H, W) or (H, W, 3 or 4), the path of a file, or strokes ``[[xs, ys], ...]``."""


def open_query(query: Query) -> Image.Image:
    """Return a sketch as RGB.

    Raises:
        ZsbirError: If it cannot be read, or nothing is drawn; the message names the file.
    """
    image = _open(query)
    if np.ptp(np.asarray(image), axis=(0, 1)).max() == 0:
        raise ZsbirError(
            f"nothing is drawn{f' in {query}' if isinstance(query, (str, Path)) else ''}: it is one colour"
        )
    return image


def _open(query: Query) -> Image.Image:
    if isinstance(query, np.ndarray) and (query.ndim == 2 or (query.ndim == 3 and query.shape[1] > 3)):
        return _image(query)
    if isinstance(query, Image.Image):
        return query.convert("RGB")
    if isinstance(query, (str, Path)):
        name = str(query)
        return load_image(f"{name}#0" if kind_of(name) == "ndjson" and split_record(name)[1] is None else name)
    try:
        return draw_strokes(list(query), StrokeStyle())
    except (ValueError, TypeError, IndexError) as error:
        raise ZsbirError(f"the strokes cannot be drawn: {error}; they are lists [xs, ys] of equal length") from None


def _image(pixels: npt.NDArray[Any]) -> Image.Image:
    if pixels.dtype.kind == "f" and pixels.size and pixels.min() >= 0 and pixels.max() <= 1:
        pixels = (pixels * 255 + 0.5).astype(np.uint8)
    if pixels.dtype != np.uint8 or (pixels.ndim == 3 and pixels.shape[2] not in (3, 4)):
        raise ZsbirError(
            f"a sketch's pixels are (H, W) or (H, W, 3), uint8 or float in [0, 1], not {pixels.dtype} {pixels.shape}"
        )
    return Image.fromarray(pixels).convert("RGB")
