"""Sketches given as strokes: QuickDraw ``.ndjson`` and SVG files, rasterised black on white."""

from __future__ import annotations

import codecs
import io
import json
import re
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Annotated, Any
from xml.parsers import expat

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from zsbir.arguments import Count, Positive, Range, checked
from zsbir.data.formats import kind_of, split_record
from zsbir.data.isolation import IsolatedError, isolated
from zsbir.errors import ZsbirError, needing
from zsbir.files import open_regular, stamp

OVERSAMPLE = 4
"""Lines are drawn this many times larger and reduced: Pillow's own lines have no anti-aliasing."""

LARGEST = 64 << 20
"""Bytes of an SVG file that is drawn."""

DEEPEST = 100
"""Elements within each other in an SVG file that is drawn: the renderer's stack ends somewhat above 200."""


@checked("stroke style")
@dataclass(frozen=True)
class StrokeStyle:
    """How drawings are rasterised.

    Attributes:
        size: Side of the square in pixels.
        line_width: Width of the lines in pixels; None: 1/64 of the side for QuickDraw, an SVG's own.
        margin: White border on each side, as a share of the side, below 0.5 (QuickDraw only).
    """

    size: Count = 256
    line_width: Positive | None = None
    margin: Annotated[float, Range(0, 0.5, without=("high",))] = 0.04


def load_drawing(record: str, style: StrokeStyle | None = None) -> Image.Image:
    """Rasterise ``file.svg``, or ``file.ndjson#17``: the drawing in line 17, counted from 0.

    It is drawn in a child process with limits, see `zsbir.data.isolation`: a drawing of a few kilobytes can keep its
    renderer busy for minutes.

    Raises:
        ZsbirError: If the file is missing, broken or too costly to draw, or has no such line.
    """
    style = style or StrokeStyle()
    if kind_of(record) == "svg":
        try:
            with open_regular(record) as stream:
                data = stream.read(LARGEST + 1)
            return isolated(f"{__name__}:rasterise_svg", data, size=style.size, line_width=style.line_width)
        except (OSError, IsolatedError) as error:
            raise ZsbirError(f"cannot rasterise the SVG file {record}: {error}") from None
    try:
        return isolated(f"{__name__}:draw_quickdraw", drawing_bytes(record), **asdict(style))
    except (ValueError, IndexError, IsolatedError) as error:
        raise ZsbirError(f"cannot read the drawing {record}: {error}; lines must be QuickDraw's JSON") from None


def draw_quickdraw(data: bytes, **style: Any) -> Image.Image:
    """Draw one line of a QuickDraw file; `style` as for `StrokeStyle`."""
    try:
        return draw_strokes(json.loads(data)["drawing"], StrokeStyle(**style))
    except KeyError as error:
        raise ValueError(f"it has no {error}") from None


def draw_strokes(strokes: list[Any], style: StrokeStyle) -> Image.Image:
    """Draw strokes black on white.

    Args:
        strokes: Each ``[xs, ys]`` or ``[xs, ys, times]``, in any unit, y downwards. A simplified QuickDraw drawing
            (all values in 0..255) keeps its place and size; others are scaled to fill the square.
        style: Size, line width and margin.

    Returns:
        (size, size) RGB.

    Raises:
        ValueError: If there is no stroke, or a stroke has more x than y or fewer.
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


def count_drawings(file: str) -> int:
    """Return how many lines, and so drawings, a QuickDraw file has."""
    return len(_starts(file)) - 1


def _starts(file: str) -> npt.NDArray[np.int64]:
    """Return the byte where each line starts, and the end."""
    try:
        return _scan_lines(file, *stamp(file))
    except OSError as error:
        raise ZsbirError(f"cannot read the QuickDraw file {file}: {error.strerror}") from None


@lru_cache(maxsize=512)
def _scan_lines(file: str, size: int, _changed: int) -> npt.NDArray[np.int64]:
    """Read the starts: 8 bytes a drawing, kept while the file is unchanged."""
    ends: list[npt.NDArray[np.int64]] = [np.zeros(1, dtype=np.int64)]
    at = 0
    with open_regular(file) as stream:
        while block := stream.read(1 << 22):
            ends.append(np.flatnonzero(np.frombuffer(block, dtype=np.uint8) == ord("\n")) + at + 1)
            at += len(block)
    starts = np.concatenate(ends)
    return starts if starts[-1] >= size else np.append(starts, size)


def drawing_place(record: str) -> tuple[str, int, int]:
    """Return the file of ``file.ndjson#17``, and the byte where its line begins and the one where it ends.

    Raises:
        IndexError: If there is no such line.
        ZsbirError: If there is no such file.
    """
    file, number = split_record(record)
    if number is None:
        raise IndexError("say which drawing of the file, such as #0")
    starts = _starts(file)
    if number >= len(starts) - 1:
        raise IndexError(f"it has {len(starts) - 1} drawings")
    return file, int(starts[number]), int(starts[number + 1])


def drawing_bytes(record: str) -> bytes:
    """Return the line of ``file.ndjson#17``; raises as `drawing_place`."""
    file, start, end = drawing_place(record)
    with open_regular(file) as stream:
        stream.seek(start)
        return stream.read(end - start)


def rasterise_svg(data: bytes, size: int, line_width: float | None = None) -> Image.Image:
    """Draw an SVG on a white square; nothing outside the drawing itself is read.

    Args:
        data: UTF-8.
        size: Side of the square in pixels.
        line_width: Width of all lines in pixels; None: the drawing's own.

    Raises:
        ZsbirError: If resvg-py is not installed.
        ValueError: If the drawing is broken, nested too deeply, or refers to another file.
    """
    with needing("drawing SVG", "resvg-py"):
        import resvg_py
    if len(data) > LARGEST:
        raise ValueError(f"it has more than {LARGEST} bytes")
    text = data.removeprefix(codecs.BOM_UTF8).decode()
    _check_svg(text)
    rule = None if line_width is None else _width_rule(text, size, line_width)
    png = resvg_py.svg_to_bytes(svg_string=text, width=size, height=size, skip_system_fonts=True, style_sheet=rule)
    image = Image.open(io.BytesIO(bytes(png))).convert("RGBA")
    square = Image.new("RGBA", (size, size), (255, 255, 255, 255))
    square.alpha_composite(image, ((size - image.width) // 2, (size - image.height) // 2))
    return square.convert("RGB")


def _check_svg(text: str) -> None:
    """Refuse what the renderer would read from elsewhere, and what is nested beyond its stack."""
    depth = 0
    parser = expat.ParserCreate()

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > DEEPEST:
            raise ValueError(f"it nests more than {DEEPEST} elements")
        if name.rpartition(":")[2] == "a":  # a link: nothing is loaded
            return
        for key, value in attributes.items():
            if key.rpartition(":")[2] == "href" and not value.strip().startswith(("#", "data:")):
                raise ValueError(f"it refers to another file ({value[:60]!r}), which is not read")

    def end(name: str) -> None:
        nonlocal depth
        depth -= 1

    parser.StartElementHandler, parser.EndElementHandler = start, end
    try:
        parser.Parse(text, True)
    except expat.ExpatError as error:
        raise ValueError(f"it is not XML: {error}") from None


def _width_rule(svg: str, size: int, line_width: float) -> str:
    """Return the style rule that makes every line `line_width` pixels wide on a square of `size` pixels."""
    box = re.search(r"""viewBox\s*=\s*["']([^"']+)""", svg)
    sides = [float(value) for value in re.split(r"[\s,]+", box.group(1).strip())[2:4]] if box else []
    if len(sides) != 2:
        sides = [float(value) for value in re.findall(r"""\b(?:width|height)\s*=\s*["']([\d.]+)""", svg)[:2]]
    if not sides or max(sides) <= 0:
        raise ValueError("it has neither a viewBox nor a size, so the line width cannot be set")
    return f"* {{ stroke-width: {line_width * max(sides) / size} !important; }}"
