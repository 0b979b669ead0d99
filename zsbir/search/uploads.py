"""Untrusted drawings: bytes or strokes from the network to pixels, or a refusal.

What an upload claims to be does not matter: its first bytes decide, one decoder alone sees it, and its size is read
before it is decoded, in a child process with limits. A file that goes on after its image is refused, whatever the rest
is.
"""

from __future__ import annotations

import codecs
import dataclasses
import io
import json
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

from PIL import Image

from zsbir.data.isolation import IsolatedError, isolated
from zsbir.data.strokes import StrokeStyle, draw_strokes, rasterise_svg
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
        seconds: Time to decode it.
        memory: Bytes of memory to decode it.
    """

    size: int = 8_000_000
    pixels: int = 25_000_000
    elements: int = 5_000
    points: int = 100_000
    svg_size: int = 1_000_000
    seconds: float = 10.0
    memory: int = 1 << 30


def decode_upload(data: bytes, limits: Limits | None = None) -> Image.Image:
    """Decode a PNG, JPEG, WebP or SVG drawing from somebody else, in a process that is ended at its limits.

    Returns:
        RGB, transparency on white.

    Raises:
        RefusedError: If it is anything else, broken, truncated, too large or costly, followed by other data, or an SVG
            with anything but shapes.
    """
    limits = limits or Limits()
    if not data:
        raise RefusedError("the upload is empty")
    if len(data) > limits.size:
        raise RefusedError(f"the upload has more than {limits.size} bytes", 413)
    return _isolated("decode", kind_of(data), data, limits)


def _isolated(function: str, what: str, data: bytes, limits: Limits) -> Image.Image:
    try:
        return isolated(
            f"{__name__}:{function}", data, limits.seconds, limits.memory, limits=dataclasses.asdict(limits)
        )
    except IsolatedError as error:
        if error.status is not None:
            raise RefusedError(str(error), error.status) from None
        raise RefusedError(f"the {what} cannot be decoded: {error}") from None


def decode(data: bytes, limits: Mapping[str, Any]) -> Image.Image:
    """Decode an upload in this process; `limits` as a mapping. `decode_upload` is the way that is safe."""
    kind, known = kind_of(data), Limits(**limits)
    if kind == "SVG":
        return _svg(data, known)
    end = {"PNG": _png_end, "JPEG": _jpeg_end, "WEBP": _webp_end}[kind](data)
    if end != len(data):
        what = "is truncated" if end > len(data) else "is followed by other data"
        raise RefusedError(f"the {kind} image {what}: save it again as a plain image")
    try:
        with Image.open(io.BytesIO(data), formats=[kind]) as image:
            if image.width * image.height > known.pixels:
                raise RefusedError(f"the image has more than {known.pixels} pixels", 413)
            if kind == "JPEG":
                image.draft("RGB", (1024, 1024))  # decodes at a fraction of the size where that is enough
            rgba = image.convert("RGBA")
    except Image.DecompressionBombError:
        raise RefusedError(f"the image has more than {known.pixels} pixels", 413) from None
    white = Image.new("RGBA", rgba.size, "white")
    return Image.alpha_composite(white, rgba).convert("RGB")


def draw(data: bytes, limits: Mapping[str, Any]) -> Image.Image:
    """Draw strokes given as JSON, in this process. `decode_strokes` is the way that is safe."""
    return draw_strokes(json.loads(data), StrokeStyle())


def decode_strokes(strokes: Any, limits: Limits | None = None) -> Image.Image:
    """Draw strokes ``[[xs, ys], ...]`` from somebody else.

    Raises:
        RefusedError: If they are anything else, or too many.
    """
    limits = limits or Limits()
    if not isinstance(strokes, list) or not strokes or not all(map(_is_stroke, strokes)):
        raise RefusedError("strokes are lists [xs, ys] of as many finite numbers x as y")
    if sum(len(stroke[0]) for stroke in strokes) > limits.points:
        raise RefusedError(f"the strokes have more than {limits.points} points", 413)
    return _isolated("draw", "drawing", json.dumps([stroke[:2] for stroke in strokes]).encode(), limits)


def _is_stroke(stroke: Any) -> bool:
    if not isinstance(stroke, list) or len(stroke) not in (2, 3) or not all(isinstance(axis, list) for axis in stroke):
        return False
    xs, ys = stroke[:2]
    # The type itself, as a bool is an int; a comparison with nan is false.
    return 0 < len(xs) == len(ys) and all(type(v) in (int, float) and abs(v) < 1e6 for v in (*xs, *ys))


def kind_of(data: bytes) -> str:
    """Return the format that the first bytes name: PNG, JPEG, WEBP or SVG (any XML: the parser sees to the rest)."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data.removeprefix(codecs.BOM_UTF8)[:1000].lstrip()[:1] == b"<":
        return "SVG"
    raise RefusedError("the upload is no PNG, JPEG, WebP or SVG image", 415)


def _webp_end(data: bytes) -> int:
    length = int(struct.unpack("<I", data[4:8])[0])
    return 8 + length + length % 2


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
        root = ElementTree.fromstring(data.removeprefix(codecs.BOM_UTF8).decode())
    except (ElementTree.ParseError, UnicodeDecodeError, ValueError) as error:
        raise RefusedError(f"the SVG drawing cannot be read: {' '.join(str(error).split())[:120]}") from None
    if root.tag not in ("svg", f"{{{_SVG}}}svg"):
        raise RefusedError("the upload is no SVG drawing", 415)
    if sum(1 for _ in root.iter()) > limits.elements:
        raise RefusedError(f"the SVG drawing has more than {limits.elements} elements", 413)
    clean = _clean(root, depth=0)
    if clean is None:
        raise RefusedError("the upload is no SVG drawing", 415)
    return rasterise_svg(ElementTree.tostring(clean, "unicode").encode(), 512)


def _clean(element: ElementTree.Element, depth: int) -> ElementTree.Element | None:
    """Return a copy with shapes and plain attributes only; None for what an editor adds and nobody sees."""
    tag = str(element.tag)
    space, name = tag[1:].split("}", 1) if tag.startswith("{") else (_SVG, tag)
    if space != _SVG or name in _DROPPED:
        inside = {str(item.tag).rpartition("}")[2] for item in element.iter()}
        if inside & {"script", "foreignObject", "image", "use"}:
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
