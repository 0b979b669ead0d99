"""Image files to RGB pixels: one reader for every file. Transparency is composited on white."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, UnidentifiedImageError

from zsbir.data.formats import decoders, is_drawing
from zsbir.data.strokes import StrokeStyle, load_drawing
from zsbir.errors import ZsbirError
from zsbir.files import open_regular

MOST_PIXELS = 80_000_000
"""The largest image that is decoded, width times height: it takes up to 0.7 GB meanwhile (a WebP 1.6 GB)."""

_BAND = 1 << 22
"""Pixels of an image that are converted at a time."""

_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def load_image(path: str | Path, style: StrokeStyle | None = None, at_least: int = 0) -> Image.Image:
    """Decode one file as it is meant to be seen.

    EXIF orientation is applied, 16-bit grey is scaled to 8 bits, palettes and CMYK become RGB, transparency is
    composited on white, and of an animation the first frame is taken. Drawings are rasterised: ``.svg`` files, and
    ``name.ndjson#17`` for the 17th drawing (from 0) of a QuickDraw file.

    Args:
        path: An image file, an ``.svg`` file, or a QuickDraw drawing.
        style: How a drawing is rasterised; None: the defaults.
        at_least: A side in pixels that is enough: a JPEG is decoded at the smallest of 1/2, 1/4 and 1/8 of its size
            that keeps its shorter side this long, which is several times faster. 0: at its full size.

    Returns:
        An image of mode RGB.

    Raises:
        ZsbirError: If the file is missing, empty, broken, in no format that is read (see `zsbir.data.formats`), or of
            more than `MOST_PIXELS` pixels; the message names it.
    """
    name = str(path)
    if is_drawing(name):
        return load_drawing(name, style)
    try:
        with open_regular(name) as file:
            return _decode(file, name, at_least)
    except FileNotFoundError:
        raise ZsbirError(f"there is no image file {name}") from None
    except OSError as error:
        raise ZsbirError(f"cannot decode the image {name}: {error}") from None


def decode_image(data: bytes) -> Image.Image:
    """Decode the bytes of an image file, as `load_image` does a file; drawings are not taken.

    Raises:
        ZsbirError: As `load_image`.
    """
    return _decode(io.BytesIO(data), f"of {len(data)} bytes")


def _decode(file: IO[bytes], name: str, at_least: int = 0) -> Image.Image:
    try:
        with Image.open(file, formats=decoders()) as image:
            # A JPEG's decoder can make it smaller; `draft` does nothing to other formats.
            if at_least and min(image.size) > at_least:
                share = at_least / min(image.size)
                image.draft(None, (int(image.width * share), int(image.height * share)))
            elif image.width * image.height > MOST_PIXELS:
                image.draft(None, (image.width // 2, image.height // 2))
            if image.width * image.height > MOST_PIXELS:
                size = f"{image.width} x {image.height} pixels"
                raise ValueError(f"its {size} are more than the {MOST_PIXELS:,} that are decoded")
            return upright(image)
    except UnidentifiedImageError:
        why = "it is in none of the formats that are read" if file.seek(0, io.SEEK_END) else "the file is empty"
        raise ZsbirError(f"cannot decode the image {name}: {why}") from None
    except MemoryError:
        raise ZsbirError(f"cannot decode the image {name}: it needs more memory than there is") from None
    except Exception as error:  # Pillow's decoders raise anything on damaged files
        raise ZsbirError(f"cannot decode the image {name}: {str(error) or type(error).__name__}") from None


def upright(image: Image.Image) -> Image.Image:
    """Return an image as RGB, turned as its EXIF block says."""
    turn, rgb = turn_of(image), _to_rgb(image)
    return rgb if turn is None else rgb.transpose(turn)


def turn_of(image: Image.Image) -> Image.Transpose | None:
    """Return how an image's EXIF block says to turn it; a damaged block turns nothing."""
    try:
        return _TURNS.get(int(image.getexif().get(_ORIENTATION, 1)))
    except (OSError, ValueError, SyntaxError, TypeError, struct.error):
        return None


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        image.load()
        return image
    if image.mode in ("F", "LAB"):
        raise ValueError(f"images of mode {image.mode} are not read: save it as RGB")
    if image.mode.startswith("I"):
        return _by_bands(image, _deep_grey)
    if image.has_transparency_data or image.mode in ("PA", "La", "RGBa"):
        return _by_bands(image, _on_white)
    return image.convert("RGB")


def _by_bands(image: Image.Image, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """Convert an image some rows at a time, so that no second copy of a large one is held."""
    rows = max(1, _BAND // image.width)
    if image.height <= rows:
        return convert(image)
    result = Image.new("RGB", image.size)
    for top in range(0, image.height, rows):
        band = image.crop((0, top, image.width, min(top + rows, image.height)))
        result.paste(convert(band), (0, top))
    return result


def _on_white(image: Image.Image) -> Image.Image:
    rgba = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, (255, 255, 255, 255)), rgba).convert("RGB")


def _deep_grey(image: Image.Image) -> Image.Image:
    """Scale grey of 16 bits to 8 bits: 0 stays black, 65535 becomes white."""
    values = np.asarray(image)
    if values.max(initial=0) > 65535 or values.min(initial=0) < 0:
        raise ValueError("images of 32 bits are not read: save it with 16 or 8")
    grey = ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey[values == transparent] = 255
    return Image.fromarray(grey).convert("RGB")
