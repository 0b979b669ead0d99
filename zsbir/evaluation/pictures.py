"""Pictures of results: query sketches with their first photos, right ones framed green, wrong ones red."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from PIL import Image, ImageDraw

from zsbir.evaluation.details import TopPhotos

RIGHT = (26, 150, 65)
WRONG = (215, 48, 39)
QUERY = (120, 120, 120)
_TEXT = (40, 40, 40)


def top_k_picture(
    results: Sequence[TopPhotos],
    open_sketch: Callable[[str], Image.Image],
    open_photo: Callable[[str], Image.Image] | None = None,
    cell: int = 96,
    frame: int = 4,
) -> Image.Image:
    """Draw one row a query: the sketch, then its first photos, best first.

    Args:
        results: The rows, as `Report.top` has them.
        open_sketch: Opens a sketch by the path that its embeddings have.
        open_photo: Likewise for photos; None: the same function.
        cell: Side of an image in pixels.
        frame: Width of its frame in pixels.

    Returns:
        An RGB picture. Above each row stand the query's class and its AP; green frames are right, red ones wrong.

    >>> row = TopPhotos(0, "s", "cat", "best", 1.0, (0, 1), ("a", "b"), ("cat", "dog"), (0.9, 0.1), (True, False))
    >>> picture = top_k_picture([row], lambda path: Image.new("RGB", (8, 8), "white"), cell=32)
    >>> picture.size
    (144, 68)
    """
    photos = open_photo or open_sketch
    gap, caption = 4, 16
    columns = 1 + max((len(row.paths) for row in results), default=0)
    side = cell + 2 * frame
    size = (columns * (side + gap) + 3 * gap, max(1, len(results)) * (side + caption + gap) + 2 * gap)
    picture = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(picture)
    for number, row in enumerate(results):
        top = gap + number * (side + caption + gap)
        draw.text((gap, top), _caption(row), fill=_TEXT)
        cells = [(open_sketch(row.path), QUERY)]
        cells += [(photos(path), RIGHT if right else WRONG) for path, right in zip(row.paths, row.correct, strict=True)]
        for column, (image, colour) in enumerate(cells):
            left = gap + column * (side + gap) + (2 * gap if column else 0)
            picture.paste(_framed(image, colour, cell, frame), (left, top + caption))
    return picture


def _caption(row: TopPhotos) -> str:
    ap = "" if row.ap is None else f"   AP {row.ap:.3f}"
    note = f" ({row.note})" if row.note else ""
    # Pillow's built-in font knows Latin letters only.
    return f"{row.label}{note}{ap}".encode("latin-1", "replace").decode("latin-1")


def _framed(image: Image.Image, colour: tuple[int, int, int], cell: int, frame: int) -> Image.Image:
    tile = Image.new("RGB", (cell + 2 * frame, cell + 2 * frame), colour)
    fitted = image.convert("RGB")
    scale = cell / max(fitted.size)
    fitted = fitted.resize((max(1, round(fitted.width * scale)), max(1, round(fitted.height * scale))))
    inner = Image.new("RGB", (cell, cell), "white")
    inner.paste(fitted, ((cell - fitted.width) // 2, (cell - fitted.height) // 2))
    tile.paste(inner, (frame, frame))
    return tile
