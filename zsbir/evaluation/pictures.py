"""Pictures of results: query sketches with their first photos, right ones framed green, wrong ones red."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from functools import partial

from PIL import Image, ImageDraw, ImageFont, ImageOps

from zsbir.evaluation.overview import TopPhotos

Opener = Callable[[str], Image.Image]
"""Opens an image by the path that its embeddings have."""

RIGHT = (26, 150, 65)
WRONG = (215, 48, 39)
QUERY = (120, 120, 120)
_TEXT = (40, 40, 40)
_GAP, _LINE = 4, 16
_SIDE = 128  # of the pictures in an HTML page


def top_k_picture(
    results: Sequence[TopPhotos],
    open_sketch: Opener,
    open_photo: Opener | None = None,
    cell: int = 96,
    frame: int = 4,
    columns: int = 10,
) -> Image.Image:
    """Draw for each query the sketch and its first photos, best first.

    Args:
        results: The rows, as `Report.top` has them.
        open_sketch: Opens a sketch by the path that its embeddings have.
        open_photo: Likewise for photos; None: the same function.
        cell: Side of an image in pixels.
        frame: Width of its frame in pixels.
        columns: Photos in a line; more go on below.

    Returns:
        An RGB picture. Above each query stand its class, its AP and how many photos are right; green frames are
        right, red ones wrong; under each photo stands its score, and its class if that is not the query's.

    >>> row = TopPhotos(0, "s", "cat", "best", 1.0, (0, 1), ("a", "b"), ("cat", "dog"), (0.9, 0.1), (True, False))
    >>> picture = top_k_picture([row], lambda path: Image.new("RGB", (8, 8), "white"), cell=32)
    >>> picture.size
    (144, 88)
    """
    photos = open_photo or open_sketch
    side = cell + 2 * frame
    widest = min(columns, max((len(row.paths) for row in results), default=0))
    lines = [max(1, -(-len(row.paths) // columns)) for row in results]
    block = side + _LINE + _GAP
    height = sum(_LINE + count * block for count in lines) + 3 * _GAP
    picture = Image.new("RGB", ((1 + widest) * (side + _GAP) + 3 * _GAP, max(height, side)), "white")
    draw = ImageDraw.Draw(picture)
    top = _GAP
    for row, count in zip(results, lines, strict=True):
        draw.text((_GAP, top), _latin(_caption(row)), fill=_TEXT, font=ImageFont.load_default(12))
        picture.paste(ImageOps.expand(fitted(open_sketch(row.path), cell), frame, QUERY), (_GAP, top + _LINE))
        for place, (path, right) in enumerate(zip(row.paths, row.correct, strict=True)):
            left = (1 + place % columns) * (side + _GAP) + 3 * _GAP
            under = top + _LINE + place // columns * block
            framed = ImageOps.expand(fitted(photos(path), cell), frame, RIGHT if right else WRONG)
            picture.paste(framed, (left, under))
            label = "" if right else f" {row.labels[place]}"
            _write(draw, (left, under + side), f"{row.scores[place]:.4g}{label}", side)
        top += _LINE + count * block
    return picture


def _caption(row: TopPhotos) -> str:
    ap = "" if row.ap is None else f"   AP {row.ap:.3f}"
    note = f" ({row.note})" if row.note else ""
    return f"{row.label}{note}{ap}   {sum(row.correct)} of {len(row.correct)} right"


def _write(draw: ImageDraw.ImageDraw, where: tuple[int, int], text: str, width: int) -> None:
    """Write a line that is cut where it is wider than `width` pixels."""
    font, text = ImageFont.load_default(11), _latin(text)
    if draw.textlength(text, font=font) > width:
        while text and draw.textlength(f"{text}...", font=font) > width:
            text = text[:-1]
        text = f"{text.rstrip()}..."
    draw.text(where, text, fill=_TEXT, font=font)


def _latin(text: str) -> str:
    # Pillow's built-in font knows Latin letters only.
    return text.encode("latin-1", "replace").decode("latin-1")


def fitted(image: Image.Image, side: int) -> Image.Image:
    """Return an image shrunk or enlarged into the middle of a white square of `side` pixels."""
    image = image.convert("RGB")
    scale = side / max(image.size)
    image = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
    square = Image.new("RGB", (side, side), "white")
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


def thumbnail(open_image: Opener | None, path: str) -> str:
    """Return an image as a ``data:`` address; empty where nothing opens it."""
    if open_image is None:
        return ""
    return as_address(partial(fitted(open_image(path), _SIDE).save, quality=85), "jpeg")


def as_address(save: Callable[..., object], kind: str) -> str:
    """Return the picture that `save` writes into a file as a ``data:`` address."""
    buffer = io.BytesIO()
    save(buffer, format=kind)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
