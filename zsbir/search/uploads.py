"""Untrusted drawings: bytes or strokes from the network to pixels, or a refusal.

What an upload claims to be does not matter: its first bytes decide, one decoder alone sees it, and its size is read
before it is decoded. A file that goes on after its image is refused, whatever the rest is.
"""

from __future__ import annotations

import io
import re
import struct
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from zsbir.data.strokes import StrokeStyle, draw_strokes
from zsbir.errors import ZsbirError

_SVG = "http://www.w3.org/2000/svg"
_DRAWN = {"svg", "g", "path", "line", "polyline", "polygon", "rect", "circle", "ellipse"}
_DROPPED = {"title", "desc", "metadata", "defs"}
_ATTRIBUTES = re.compile(
    r"(d|points|transform|viewBox|width|height|x|y|x1|x2|y1|y2|cx|cy|r|rx|ry|fill|fill-opacity|fill-rule|stroke|"
    r"stroke-width|stroke-opacity|stroke-linecap|stroke-linejoin|stroke-miterlimit|opacity|preserveAspectRatio|display|"
    r"id|class|version|color)"
)
_STYLE = re.compile(
    r"(fill|fill-opacity|fill-rule|stroke|stroke-width|stroke-opacity|stroke-linecap|stroke-linejoin|opacity|display)"
)


class RefusedError(ZsbirError):
    """An upload that is not taken.

    Attributes:
        status: The HTTP status that says so: 400 (broken), 413 (too large) or 415 (not a drawing).
    """

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Limits:
    """What one upload may be.

    Attributes:
        size: Bytes.
        pixels: Width times height of an image.
        elements: Elements of an SVG drawing.
        points: Points of all strokes together.
        svg_size: Bytes of an SVG drawing.
    """

    size: int = 8_000_000
    pixels: int = 25_000_000
    elements: int = 5_000
    points: int = 100_000
    svg_size: int = 1_000_000


def decode_upload(data: bytes, limits: Limits | None = None) -> Image.Image:
    """Decode a PNG, JPEG, WebP or SVG drawing from somebody else.

    Returns:
        RGB, transparency on white.

    Raises:
        RefusedError: If it is anything else, broken, truncated, too large, followed by other data, or an SVG with
            anything but shapes.
    """
    limits = limits or Limits()
    if not data:
        raise RefusedError("the upload is empty")
    if len(data) > limits.size:
        raise RefusedError(f"the upload has more than {limits.size} bytes", 413)
    kind, end = _kind(data)
    if kind == "SVG":
        return _svg(data, limits)
    if end != len(data):
        what = "is truncated" if end > len(data) else "is followed by other data"
        raise RefusedError(f"the {kind} image {what}: save it again as a plain image")
    try:
        with Image.open(io.BytesIO(data), formats=[kind]) as image:
            if image.width * image.height > limits.pixels:
                raise RefusedError(f"the image has more than {limits.pixels} pixels", 413)
            if kind == "JPEG":
                image.draft("RGB", (1024, 1024))  # decodes at a fraction of the size where that is enough
            rgba = image.convert("RGBA")
    except Image.DecompressionBombError:
        raise RefusedError(f"the image has more than {limits.pixels} pixels", 413) from None
    except (OSError, ValueError, SyntaxError, EOFError, struct.error, MemoryError) as error:
        raise RefusedError(f"the {kind} image cannot be decoded: {_short(error)}") from None
    white = Image.new("RGBA", rgba.size, "white")
    return Image.alpha_composite(white, rgba).convert("RGB")


def decode_strokes(strokes: Any, limits: Limits | None = None) -> Image.Image:
    """Draw strokes ``[[xs, ys], ...]`` from somebody else.

    Raises:
        RefusedError: If they are anything else, or too many.
    """
    limits = limits or Limits()
    wrong = RefusedError("strokes are lists [xs, ys] of as many finite numbers x as y")
    if not isinstance(strokes, list) or not strokes:
        raise wrong
    total = 0
    for stroke in strokes:
        if not isinstance(stroke, list) or len(stroke) not in (2, 3) or not all(isinstance(a, list) for a in stroke):
            raise wrong
        total += len(stroke[0])
        if len(stroke[0]) != len(stroke[1]) or not stroke[0]:
            raise wrong
        if total > limits.points or len(strokes) > limits.points:
            raise RefusedError(f"the strokes have more than {limits.points} points", 413)
        if any(isinstance(v, bool) or not isinstance(v, (int, float)) for axis in stroke[:2] for v in axis):
            raise wrong
        if not all(abs(v) < 1e6 for axis in stroke[:2] for v in axis):  # false for nan as well
            raise wrong
    return draw_strokes([[np.asarray(axis, dtype=float) for axis in stroke[:2]] for stroke in strokes], StrokeStyle())


def _kind(data: bytes) -> tuple[str, int]:
    """Return the format by the first bytes, and where its data ends (beyond the data: it is truncated)."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG", _png_end(data)
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG", _jpeg_end(data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        length = int(struct.unpack("<I", data[4:8])[0])
        return "WEBP", 8 + length + length % 2
    if re.match(rb"(\xef\xbb\xbf)?\s*(<\?xml[^>]{0,200}\?>\s*)?(<!--.{0,2000}?-->\s*)*<svg[\s>]", data, re.DOTALL):
        return "SVG", len(data)
    raise RefusedError("the upload is no PNG, JPEG, WebP or SVG image", 415)


def _png_end(data: bytes) -> int:
    at = 8
    while at + 12 <= len(data):
        length = int(struct.unpack(">I", data[at : at + 4])[0])
        kind = data[at + 4 : at + 8]
        at += 12 + length
        if kind == b"IEND":
            return at
    return len(data) + 1


def _jpeg_end(data: bytes) -> int:
    at = 2
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            raise RefusedError("the JPEG image is broken")
        marker = data[at + 1]
        if marker == 0xFF:  # filling
            at += 1
        elif marker == 0xD9:
            return at + 2
        else:
            at += 2 + int(struct.unpack(">H", data[at + 2 : at + 4])[0])
            if marker == 0xDA:  # coded data up to the next real marker
                found = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]").search(data, at)
                if found is None:
                    return len(data) + 1
                at = found.start()
    return at + 2 if data[at : at + 2] == b"\xff\xd9" else len(data) + 1


def _svg(data: bytes, limits: Limits) -> Image.Image:
    if len(data) > limits.svg_size:
        raise RefusedError(f"the SVG drawing has more than {limits.svg_size} bytes", 413)
    if re.search(rb"<!(DOCTYPE|ENTITY)|<\?xml-stylesheet", data, re.IGNORECASE):
        raise RefusedError("the SVG drawing declares a document type or style sheet, which is not taken")
    try:
        root = ElementTree.fromstring(data.decode("utf-8"))  # noqa: S314: no entities are left to expand
    except (ElementTree.ParseError, UnicodeDecodeError, ValueError) as error:
        raise RefusedError(f"the SVG drawing cannot be read: {_short(error)}") from None
    count = sum(1 for _ in root.iter())
    if count > limits.elements:
        raise RefusedError(f"the SVG drawing has more than {limits.elements} elements", 413)
    clean = _clean(root, depth=0)
    if clean is None:
        raise RefusedError("the upload is no SVG drawing", 415)
    return _rasterise(ElementTree.tostring(clean, "unicode"))


def _clean(element: ElementTree.Element, depth: int) -> ElementTree.Element | None:
    """Return a copy with shapes and plain attributes only; None for what an editor adds and nobody sees."""
    tag = str(element.tag)
    space, name = tag[1:].split("}", 1) if tag.startswith("{") else (_SVG, tag)
    if space != _SVG or name in _DROPPED:
        if any(_local(item) in ("script", "foreignObject", "image", "use") for item in element.iter()):
            raise RefusedError("the SVG drawing has scripts, images or references, which are not taken")
        return None
    if name not in _DRAWN:
        raise RefusedError(f"the SVG drawing has the element {name[:30]!r}: only shapes and groups are taken")
    if depth > 50:
        raise RefusedError("the SVG drawing nests groups too deeply")
    kept: dict[str, str] = {}
    for key, value in element.attrib.items():
        if key.lower().startswith("on") or "href" in key.lower() or "url(" in value.lower() or "@import" in value:
            raise RefusedError(f"the SVG drawing has the attribute {key[-30:]!r} with a script or reference: not taken")
        if _ATTRIBUTES.fullmatch(key):
            kept[key] = value
        elif key == "style":
            pairs = [part.partition(":") for part in value.split(";")]
            kept.update({k.strip(): v.strip() for k, _, v in pairs if _STYLE.fullmatch(k.strip())})
    copy = ElementTree.Element(f"{{{_SVG}}}{name}", kept)
    copy.extend([child for child in (_clean(item, depth + 1) for item in element) if child is not None])
    return copy


def _local(element: ElementTree.Element) -> str:
    return str(element.tag).rpartition("}")[2]


def _rasterise(svg: str, side: int = 512) -> Image.Image:
    try:
        import resvg_py
    except ImportError:
        raise RefusedError("SVG is not taken here: resvg-py is not installed", 415) from None
    try:
        png = resvg_py.svg_to_bytes(svg_string=svg, width=side, height=side, skip_system_fonts=True)
        image = Image.open(io.BytesIO(bytes(png))).convert("RGBA")
    except (ValueError, OSError) as error:
        raise RefusedError(f"the SVG drawing cannot be drawn: {_short(error)}") from None
    except BaseException as error:
        # A panic of the Rust renderer is no Exception; anything else, such as Ctrl-C, goes on.
        if type(error).__name__ != "PanicException":
            raise
        raise RefusedError("the SVG drawing cannot be drawn") from None
    square = Image.new("RGBA", (side, side), "white")
    square.alpha_composite(image.crop((0, 0, min(side, image.width), min(side, image.height))))
    return square.convert("RGB")


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__
