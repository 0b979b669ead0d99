"""Image files to RGB pixels: one reader for every file. Transparency is composited on white."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, UnidentifiedImageError

from zsbir.data.formats import decoders, is_drawing
from zsbir.errors import ZsbirError
from zsbir.files import open_regular

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


def load_image(path: str | Path) -> Image.Image:
    """Decode one file as it is meant to be seen.

    EXIF orientation is applied, 16-bit grey is scaled to 8 bits, palettes and CMYK become RGB, transparency is
    composited on white, and of an animation the first frame is taken. Drawings are rasterised at their default
    size: ``.svg`` files, and ``name.ndjson#17`` for the 17th drawing (from 0) of a QuickDraw file.

    Args:
        path: An image file, an ``.svg`` file, or a QuickDraw drawing.

    Returns:
        An image of mode RGB.

    Raises:
        ZsbirError: If the file is missing, empty, no image, broken, or larger than Pillow's decompression-bomb
            limit allows; the message names it.
    """
    name = str(path)
    if is_drawing(name):
        from zsbir.data.strokes import load_drawing

        return load_drawing(name)
    try:
        with open_regular(name) as file:
            return _decode(file, name)
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


def _decode(file: IO[bytes], name: str) -> Image.Image:
    try:
        with Image.open(file, formats=decoders()) as image:
            return upright(image)
    except UnidentifiedImageError:
        why = "it is in none of the formats that are read" if file.seek(0, io.SEEK_END) else "the file is empty"
        raise ZsbirError(f"cannot decode the image {name}: {why}") from None
    except (OSError, ValueError, SyntaxError, EOFError, struct.error, Image.DecompressionBombError) as error:
        # What Pillow's decoders raise on damaged files: there is no common class.
        raise ZsbirError(f"cannot decode the image {name}: {error}") from None


def upright(image: Image.Image) -> Image.Image:
    """Return an image as RGB, turned as its EXIF block says."""
    turn = _TURNS.get(_orientation(image))
    rgb = _to_rgb(image)
    return rgb if turn is None else rgb.transpose(turn)


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation; 1 (upright) where there is none, or the block is damaged."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except (OSError, ValueError, SyntaxError, TypeError, struct.error):
        return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        image.load()
        return image
    if image.mode.startswith("I") or image.mode == "F":
        return _deep_grey(image)
    if image.mode == "LAB":
        from PIL import ImageCms

        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
        if converted is None:
            raise ValueError("the LAB colours cannot be converted")
        return converted
    if image.has_transparency_data or image.mode in ("PA", "La", "RGBa"):
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _deep_grey(image: Image.Image) -> Image.Image:
    """Scale grey of 16 or 32 bits, or floating point, to 8 bits: 0 stays black, the format's maximum becomes white."""
    values = np.asarray(image).astype(np.float64)
    if image.mode == "F":
        top = 1.0 if values.size and values.max() <= 1 else 255.0
    elif image.mode == "I" and values.max(initial=0) > 65535:
        top = float(2**31 - 1)
    else:
        top = 65535.0
    grey = np.clip(values * (255 / top) + 0.5, 0, 255)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey[values == transparent] = 255
    return Image.fromarray(np.nan_to_num(grey, nan=255).astype(np.uint8)).convert("RGB")
