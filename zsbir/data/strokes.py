"""Sketches given as strokes: QuickDraw ``.ndjson`` and SVG files, rasterised black on white."""

from __future__ import annotations

import io
import json
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from zsbir.data.formats import is_drawing, kind_of, split_record
from zsbir.errors import ZsbirError
from zsbir.files import open_regular

OVERSAMPLE = 4
"""Lines are drawn this many times larger and reduced: Pillow's own lines have no anti-aliasing."""


@dataclass(frozen=True)
class StrokeStyle:
    """How drawings are rasterised.

    Attributes:
        size: Side of the square in pixels.
        line_width: Width of the lines in pixels; None: 1/64 of the side for QuickDraw, an SVG's own.
        margin: White border on each side, as a share of the side (QuickDraw only).
    """

    size: int = 256
    line_width: float | None = None
    margin: float = 0.04

    def __post_init__(self) -> None:
        if self.size < 1 or (self.line_width is not None and self.line_width <= 0) or not 0 <= self.margin < 0.5:
            raise ZsbirError(
                f"drawings cannot be rasterised at {self.size} px with lines of {self.line_width} px and a margin of "
                f"{self.margin}: sizes must be positive, the margin below 0.5"
            )


def open_image(record: str, style: StrokeStyle) -> Image.Image:
    """Return a record as RGB: a drawing in the given style, any other image decoded."""
    if is_drawing(record):
        return load_drawing(record, style)
    from zsbir.data.images import load_image

    return load_image(record)


def load_drawing(record: str, style: StrokeStyle | None = None) -> Image.Image:
    """Rasterise ``file.svg``, or ``file.ndjson#17``: the drawing in line 17, counted from 0.

    Raises:
        ZsbirError: If the file is missing or broken, or has no such line.
    """
    style = style or StrokeStyle()
    if kind_of(record) == "svg":
        return _load_svg(record, style)
    try:
        strokes = json.loads(drawing_bytes(record))["drawing"]
        return draw_strokes(strokes, style)
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise ZsbirError(f"cannot read the drawing {record}: {error!r}; lines must be QuickDraw's JSON") from None


def draw_strokes(strokes: list[Any], style: StrokeStyle) -> Image.Image:
    """Draw strokes black on white.

    Args:
        strokes: Each ``[xs, ys]`` or ``[xs, ys, times]``, in any unit, y downwards. A simplified QuickDraw drawing
            (all values in 0..255) keeps its place and size; others are scaled to fill the square.
        style: Size, line width and margin.

    Returns:
        (size, size) RGB.

    Raises:
        ValueError: If there is no stroke, or one has not as many x as y.
    """
    lines = [
        np.stack([np.asarray(stroke[0], dtype=float), np.asarray(stroke[1], dtype=float)], 1) for stroke in strokes
    ]
    lines = [line for line in lines if len(line)]
    if not lines:
        raise ValueError("it has no stroke")
    points = np.concatenate(lines)
    if not np.isfinite(points).all():
        raise ValueError("a coordinate is not finite")
    low, extent = points.min(axis=0), float(np.ptp(points, axis=0).max())
    if low.min() >= 0 and points.max() <= 255:
        low, extent = np.zeros(2), 255.0
    side = style.size * OVERSAMPLE
    scale = side * (1 - 2 * style.margin) / max(extent, 1e-9)
    width = max(1, round((style.line_width or style.size / 64) * OVERSAMPLE))
    image = Image.new("L", (side, side), 255)
    pen = ImageDraw.Draw(image)
    for line in lines:
        placed = (line - low) * scale + side * style.margin
        pen.line([tuple(point) for point in placed.tolist()], fill=0, width=width, joint="curve")
        for x, y in (placed[0], placed[-1]):
            pen.ellipse((x - width / 2, y - width / 2, x + width / 2, y + width / 2), fill=0)
    return image.resize((style.size, style.size), Image.Resampling.BOX).convert("RGB")


def _place(record: str) -> tuple[str, int]:
    file, number = split_record(record)
    if number is None:
        raise IndexError("say which drawing of the file, such as #0")
    return file, number


def count_drawings(file: str) -> int:
    """Return how many lines, and so drawings, a QuickDraw file has."""
    return len(_starts(file)) - 1


def _starts(file: str) -> npt.NDArray[np.int64]:
    try:
        stat = Path(file).stat()
    except OSError as error:
        raise ZsbirError(f"cannot read the QuickDraw file {file}: {error.strerror}") from None
    return _scan_lines(file, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=512)
def _scan_lines(file: str, size: int, _changed: int) -> npt.NDArray[np.int64]:
    """Return the byte where each line starts, and the end: 8 bytes a drawing, kept while the file is unchanged."""
    ends: list[npt.NDArray[np.int64]] = [np.zeros(1, dtype=np.int64)]
    at = 0
    with open_regular(file) as stream:
        while block := stream.read(1 << 22):
            ends.append(np.flatnonzero(np.frombuffer(block, dtype=np.uint8) == ord("\n")) + at + 1)
            at += len(block)
    starts = np.concatenate(ends)
    return starts if starts[-1] >= size else np.append(starts, size)


def drawing_size(record: str) -> int:
    """Return the bytes of a drawing's line; raises as `drawing_bytes` does."""
    file, number = _place(record)
    starts = _starts(file)
    return int(starts[number + 1] - starts[number])


def drawing_bytes(record: str) -> bytes:
    """Return the line of ``file.ndjson#17``.

    Raises:
        ValueError, IndexError: If there is no such line.
        ZsbirError: If there is no such file.
    """
    file, number = _place(record)
    starts = _starts(file)
    if not 0 <= number < len(starts) - 1:
        raise IndexError(f"it has {len(starts) - 1} drawings")
    with open_regular(file) as stream:
        stream.seek(int(starts[number]))
        return stream.read(int(starts[number + 1] - starts[number]))


def _load_svg(file: str, style: StrokeStyle) -> Image.Image:
    try:
        import resvg_py
    except ImportError:
        raise ZsbirError(f"{file} is SVG: install resvg-py to rasterise it (pip install resvg-py)") from None
    try:
        with open_regular(file) as stream:
            text = stream.read().decode()
        options: dict[str, Any] = {} if style.line_width is None else {"style_sheet": _width_rule(text, style)}
        png = resvg_py.svg_to_bytes(
            svg_string=text, width=style.size, height=style.size, skip_system_fonts=True, **options
        )
        image = Image.open(io.BytesIO(bytes(png))).convert("RGBA")
    except (OSError, ValueError) as error:
        raise ZsbirError(f"cannot rasterise the SVG file {file}: {error}") from None
    square = Image.new("RGBA", (style.size, style.size), (255, 255, 255, 255))
    place = ((style.size - image.width) // 2, (style.size - image.height) // 2)
    square.alpha_composite(image, place)
    return square.convert("RGB")


def _width_rule(svg: str, style: StrokeStyle) -> str:
    """Return the style rule that makes every line `style.line_width` pixels wide after scaling."""
    box = re.search(r"""viewBox\s*=\s*["']([^"']+)""", svg)
    sides = [float(value) for value in re.split(r"[\s,]+", box.group(1).strip())[2:4]] if box else []
    if len(sides) != 2:
        sides = [float(value) for value in re.findall(r"""\b(?:width|height)\s*=\s*["']([\d.]+)""", svg)[:2]]
    if not sides or max(sides) <= 0:
        raise ValueError("it has neither a viewBox nor a size, so the line width cannot be set")
    return f"* {{ stroke-width: {(style.line_width or 1) * max(sides) / style.size} !important; }}"
