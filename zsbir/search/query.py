"""What a user may search with: an image, a file, strokes, or the bytes of an upload."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import Tensor

from zsbir.data.formats import kind_of, split_record
from zsbir.data.images import load_image
from zsbir.data.preprocess import as_image
from zsbir.data.strokes import StrokeStyle, draw_strokes
from zsbir.errors import ZsbirError

Query = Image.Image | npt.NDArray[Any] | Tensor | str | Path | Sequence[Any]
"""An image, its pixels as (H, W) or (H, W, 3) uint8, a (3, H, W) tensor, a file, or strokes ``[[xs, ys], ...]``."""


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
    drawing: Any = query
    strokes = isinstance(query, np.ndarray) and query.ndim == 3 and query.shape[1] <= 3
    if isinstance(query, (Image.Image, np.ndarray, Tensor)) and not strokes:
        return as_image(query)
    if isinstance(query, (str, Path)):
        name = str(query)
        return load_image(f"{name}#0" if kind_of(name) == "ndjson" and split_record(name)[1] is None else name)
    try:
        return draw_strokes(list(drawing), StrokeStyle())
    except (ValueError, TypeError, IndexError) as error:
        raise ZsbirError(f"the strokes cannot be drawn: {error}; they are lists [xs, ys] of equal length") from None
