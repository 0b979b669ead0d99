"""Finding image files in class folders: names only, nothing is decoded, no Python object stays per file."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from zsbir.data.images import SUFFIXES
from zsbir.errors import ZsbirError
from zsbir.types import Paths, Records

DRAWINGS = ".ndjson"
"""Ending of a QuickDraw file: one drawing a line."""

SKETCH_FOLDERS = ("sketch", "sketches", "drawing", "drawings", "quickdraw")
PHOTO_FOLDERS = ("photo", "photos", "image", "images", "picture", "pictures", "real")
"""Names of the two domains' folders, in lower case."""


@dataclass
class Found:
    """The images of one domain, as class folders hold them.

    Attributes:
        classes: Class name (the folder's name) to the image paths relative to the root, sorted.
        ignored: How many files are no images.
    """

    classes: dict[str, Paths] = field(default_factory=dict)
    ignored: int = 0


def find_domain(root: Path, names: Iterable[str]) -> str | None:
    """Return the folder under `root` that carries one of `names`, whatever its case, or None.

    Raises:
        ZsbirError: If several do.
    """
    wanted = {name.lower() for name in names}
    held = sorted(entry.name for entry in os.scandir(root) if entry.name.lower() in wanted and entry.is_dir())
    if len(held) > 1:
        raise ZsbirError(f"{root} has both {' and '.join(held)}, which mean the same domain: leave one of them")
    return held[0] if held else None


def scan_classes(root: Path, folder: str) -> Found:
    """List the images of all class folders in ``root/folder``.

    A class is a sub-folder, or a QuickDraw file ``<class>.ndjson``. Hidden files and folders are left out.

    Args:
        root: What the paths are relative to.
        folder: The domain's folder, relative to it, with forward slashes.

    Returns:
        Every class folder, the empty ones included.
    """
    found = Found()
    for entry in sorted(os.scandir(root / folder), key=lambda entry: entry.name):
        relative = f"{folder}/{entry.name}"
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            paths, ignored = scan_folder(root, relative)
            found.classes[entry.name] = paths
            found.ignored += ignored
        elif entry.name.endswith(DRAWINGS):
            name = entry.name.removeprefix("full_simplified_").removesuffix(DRAWINGS)
            found.classes[name] = Paths(_members(root, relative))
        else:
            found.ignored += 1
    return found


def scan_folder(root: Path, folder: str) -> tuple[Paths, int]:
    """Return the images in ``root/folder``, relative to `root` and sorted, and the number of other files there."""
    names: list[str] = []
    ignored = 0
    with os.scandir(root / folder) as entries:
        for entry in entries:
            name = entry.name
            if name.startswith("."):
                continue
            if is_image(name) or name.endswith(DRAWINGS):
                names.append(name)
            elif not entry.is_dir():
                ignored += 1
    names.sort()
    return Paths(path for name in names for path in _members(root, f"{folder}/{name}")), ignored


def is_image(name: str) -> bool:
    """Tell by its ending whether a file is an image or an SVG drawing."""
    ending = name[name.rfind(".") :].lower() if "." in name else ""
    return ending in SUFFIXES or ending == ".svg"


def _members(root: Path, path: str) -> Iterator[str]:
    """Yield the records of a file: itself, or one for each drawing of a QuickDraw file."""
    if not path.endswith(DRAWINGS):
        yield path
        return
    from zsbir.data.strokes import count_drawings

    for number in range(count_drawings(str(root / path))):
        yield f"{path}#{number}"


def records_of(root: Path, found: dict[str, Paths], classes: tuple[str, ...]) -> Records:
    """Return the files of `classes` in that order, labelled by position; a class that was not found has none."""
    parts = [found.get(name, Paths()) for name in classes]
    labels = np.repeat(np.arange(len(classes), dtype=np.int64), [len(part) for part in parts])
    return Records(root, Paths.join(parts), labels)
