"""What a file is, by the ending of its name (in any case). No other module looks at endings."""

from __future__ import annotations

from functools import cache
from typing import Literal

from PIL import Image

Kind = Literal["image", "svg", "ndjson"]
"""A raster image, an SVG drawing, or a QuickDraw file (or one drawing of it, ``name.ndjson#17``)."""

_DECODERS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF")

_ENDINGS: dict[str, Kind] = dict.fromkeys(
    ("png", "jpg", "jpeg", "webp", "bmp", "gif", "tif", "tiff", "ppm", "pgm", "jp2", "avif"), "image"
)
_ENDINGS |= {"svg": "svg", "ndjson": "ndjson"}


def split_record(record: str) -> tuple[str, int | None]:
    """Return a record's file, and the number of the drawing in it (None where the file is the record).

    >>> split_record("cat.ndjson#17"), split_record("issue#17.png")
    (('cat.ndjson', 17), ('issue#17.png', None))
    """
    file, sign, number = record.rpartition("#")
    # 18 digits: no file has more lines, and int() refuses thousands of digits.
    if sign and file[-7:].lower() == ".ndjson" and number.isdecimal() and len(number) <= 18:
        return file, int(number)
    return record, None


def kind_of(record: str) -> Kind | None:
    """Return what a file name or record stands for, or None for anything else.

    >>> kind_of("a/CAT.JPG"), kind_of("cat.Svg"), kind_of("cat.ndjson#17"), kind_of("notes.txt"), kind_of("png")
    ('image', 'svg', 'ndjson', None, None)
    """
    file, _ = split_record(record)
    _, dot, ending = file.rpartition("/")[2].rpartition(".")
    return _ENDINGS.get(ending.lower()) if dot else None


@cache
def decoders() -> tuple[str, ...]:
    """Return the formats that Pillow may decode, whatever a file's name says (EPS, for one, starts Ghostscript)."""
    Image.init()
    return tuple(name for name in _DECODERS if name in Image.OPEN)  # AVIF: from Pillow 11.3 on


def is_drawing(record: str) -> bool:
    """Tell whether a record is given as strokes: an SVG file or a drawing of a QuickDraw file."""
    return kind_of(record) in ("svg", "ndjson")
