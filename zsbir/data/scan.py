"""Find image files by their names: decode nothing, and keep no Python object for each file.

Only regular files are found. Pipes, devices, names that are not UTF-8 and dangling links are left out and listed.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from zsbir.data.formats import kind_of, split_record
from zsbir.data.strokes import count_drawings
from zsbir.errors import ZsbirError
from zsbir.names import canonical, some
from zsbir.types import DOMAINS, Domain, Paths, Records

DOMAIN_FOLDERS: dict[Domain, tuple[str, ...]] = {
    "sketch": ("sketch", "sketches", "drawing", "drawings", "quickdraw"),
    "photo": ("photo", "photos", "image", "images", "picture", "pictures", "real"),
}
"""Names of the two domains' folders, in lower case."""

NO_IMAGE = "it is not an image"
Skipped = list[tuple[str, str]]
"""Files that were left out: the path (as it can be printed) and the reason."""


@dataclass
class Found:
    """The images of one domain, as class folders hold them.

    Attributes:
        classes: Class name to the image paths relative to the root, sorted.
        skipped: The files that were left out.
    """

    classes: dict[str, Paths]
    skipped: Skipped

    def records(self, root: Path, classes: Sequence[str]) -> Records:
        """Return the images of `classes` in that order, labelled by position; a class that was not found has none."""
        return labelled(root, [self.classes.get(name, Paths()) for name in classes])


def labelled(root: Path, groups: Sequence[Paths]) -> Records:
    """Return the records of all groups, labelled by their group's position."""
    labels = np.repeat(np.arange(len(groups), dtype=np.int64), [len(group) for group in groups])
    return Records(root, Paths.join(groups), labels)


def existing_folder(root: str | Path) -> Path:
    """Return `root` as a path.

    Raises:
        ZsbirError: If it is not a folder.
    """
    path = Path(root).expanduser()
    if not os.path.isdir(path):  # noqa: PTH112 (a name that no file can have is no folder; Path raises)
        what = "not a folder" if os.path.exists(path) else "missing"  # noqa: PTH110
        raise ZsbirError(f"the dataset root {path} is {what}: check the path")
    return path


def label_file(root: Path, name: str) -> list[str] | None:
    """Return the classes in a label file (one a line) in `root` or one level up, or None where there is none."""
    for path in (root / name, root.resolve().parent / name):
        if path.is_file():
            text = path.read_text(encoding="utf-8-sig", errors="replace")
            return [line.strip() for line in text.splitlines() if line.strip()]
    return None


def describe_skipped(skipped: Skipped) -> str:
    """Return one sentence on the files that were left out, such as ``2 files are left out (2: it is not an image)``."""
    reasons = Counter(reason for _, reason in skipped)
    listed = ", ".join(f"{count:,}: {reason}" for reason, count in reasons.most_common())
    return f"{len(skipped):,} files are left out ({listed})"


def find_domain(root: Path, domain: Domain) -> str | None:
    """Return the folder under `root` that has one of the domain's names, in any case, or None.

    Raises:
        ZsbirError: If several do.
    """
    names = DOMAIN_FOLDERS[domain]
    held = sorted(entry.name for entry in os.scandir(root) if entry.name.lower() in names and entry.is_dir())
    if len(held) > 1:
        raise ZsbirError(f"{root} has both {' and '.join(held)}, which mean the same domain: leave one of them")
    return held[0] if held else None


def scan_classes(root: Path, folders: Iterable[str], spelling: Mapping[str, str]) -> Found:
    """List the images of all class folders in ``root/folder`` of all `folders`; links are followed.

    A class is a sub-folder, or a QuickDraw file ``<class>.ndjson``. Hidden files and folders are left out.

    Args:
        root: What the paths are relative to.
        folders: Folders relative to it, with forward slashes.
        spelling: Canonical class names (see `zsbir.names.canonical`) to the names that they get; others keep theirs.

    Returns:
        Every class, the empty ones included; what has the same name is joined.
    """
    parts: dict[str, list[Paths]] = {}
    skipped: Skipped = []
    for folder in folders:
        for entry in _entries(root / folder, skipped):
            name, path = entry.name, f"{folder}/{entry.name}"
            if entry.is_dir():
                files = [
                    f"{path}/{inner.name}" for inner in _entries(root / path, skipped) if _is_image(inner, skipped)
                ]
                paths = Paths(record for file in files for record in records_in(root, file))
            elif kind_of(name) != "ndjson":
                skipped.append((entry.path, "it is in no class folder" if kind_of(name) else NO_IMAGE))
                continue
            elif _usable(entry, skipped):
                name = name.rpartition(".")[0].removeprefix("full_simplified_")
                paths = Paths(records_in(root, path))
            else:
                continue
            parts.setdefault(spelling.get(canonical(name), name), []).append(paths)
    return Found({name: Paths.join(held) for name, held in parts.items()}, skipped)


def paired_classes(root: Path) -> tuple[Found, Found]:
    """Return the class folders of sketches and photos under `root`; both have the same classes, by the photos' names.

    Raises:
        ZsbirError: If a domain folder is missing or holds no class folder, a class folder is empty, or a class is in
            one domain only.
    """
    folders = {}
    for domain in DOMAINS:
        folder = find_domain(root, domain)
        if folder is None:
            held = some(sorted(entry.name for entry in os.scandir(root) if entry.is_dir())) or "no folder"
            raise ZsbirError(
                f"{root} has no {domain} folder (any of {', '.join(DOMAIN_FOLDERS[domain])}); it holds {held}"
            )
        folders[domain] = folder
    photos = scan_classes(root, [folders["photo"]], {})
    sketches = scan_classes(root, [folders["sketch"]], {canonical(name): name for name in photos.classes})
    for domain, found in zip(DOMAINS, (sketches, photos), strict=True):
        if not found.classes:
            folder = folders[domain]
            raise ZsbirError(f"{root / folder} holds no class folder: it must be {folder}/CLASS/image")
        empty = [name for name, paths in found.classes.items() if not len(paths)]
        if empty:
            extra = f"; {describe_skipped(found.skipped)}" if found.skipped else ""
            raise ZsbirError(f"no image in the {domain} folder of {', '.join(empty)} under {root}{extra}")
    for domain, there, other in (("sketch", sketches, photos), ("photo", photos, sketches)):
        alone = sorted(set(there.classes) - set(other.classes))
        if alone:
            raise ZsbirError(
                f"{len(alone)} classes under {root} have only {domain} images: {some(alone)}; add the other "
                "domain's folder of the same name, or move these away"
            )
    return sketches, photos


def records_in(root: Path, path: str) -> Iterator[str]:
    """Yield the records of a file relative to `root`: itself, or one for each drawing of a QuickDraw file."""
    if kind_of(path) == "ndjson" and split_record(path)[1] is None:
        yield from (f"{path}#{number}" for number in range(count_drawings(str(root / path))))
    else:
        yield path


def photo_files(source: str | Path, skipped: Skipped | None = None, links: bool = False) -> Iterator[str]:
    """Yield the full paths of the image files of a source, in a fixed order.

    Args:
        source: A folder (searched at any depth, hidden folders left out), one image, or a text file with a path a
            line, relative to that file.
        skipped: Takes the files of a folder that are left out although they are named like images.
        links: Follow links that lead out of the folder, and links to folders.

    Raises:
        ZsbirError: If there is no such file or folder.
    """
    source = Path(source).absolute()
    if source.is_dir():
        yield from _walk(source, [] if skipped is None else skipped, links)
    elif source.is_file() and kind_of(source.name) == "image":
        yield str(source)
    elif source.is_file():
        try:
            lines = source.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            raise ZsbirError(f"{source} is neither an image, a folder nor a text file with a path a line") from None
        yield from dict.fromkeys(os.path.normpath(source.parent / line.strip()) for line in lines if line.strip())
    else:
        raise ZsbirError(f"there is no folder, image or list {source}")


def _walk(home: Path, skipped: Skipped, links: bool) -> Iterator[str]:
    """Yield the images of a folder and then those of its sub-folders, each folder once."""
    real = os.path.realpath(home)
    waiting, seen = [str(home)], set()
    while waiting:
        folder = waiting.pop()
        if links and (place := os.path.realpath(folder)) in seen:
            continue
        elif links:
            seen.add(place)
        inner = []
        for entry in _entries(folder, skipped):
            if entry.is_dir(follow_symlinks=False) or (links and entry.is_dir()):
                inner.append(entry.path)
            elif kind_of(entry.name) == "image" and _usable(entry, skipped, None if links else real):
                yield entry.path
            elif not links and entry.is_symlink() and entry.is_dir():
                skipped.append((entry.path, "it is a link to a folder"))
        waiting += reversed(inner)


def _entries(folder: str | Path, skipped: Skipped) -> list[os.DirEntry[str]]:
    """Return what a folder holds, sorted, without hidden names and without names that are not UTF-8."""
    try:
        with os.scandir(folder) as held:
            entries = sorted((entry for entry in held if not entry.name.startswith(".")), key=lambda item: item.name)
    except OSError as error:
        skipped.append((str(folder), f"it cannot be opened ({error.strerror})"))
        return []
    odd = [entry.path for entry in entries if entry.name.encode(errors="ignore") != os.fsencode(entry.name)]
    skipped += [(os.fsencode(path).decode("utf-8", "backslashreplace"), "its name is not UTF-8") for path in odd]
    return [entry for entry in entries if entry.path not in odd] if odd else entries


def _is_image(entry: os.DirEntry[str], skipped: Skipped) -> bool:
    """Tell whether an entry of a class folder is an image or drawing; if it is another file, add it to `skipped`."""
    if kind_of(entry.name) is not None:
        return _usable(entry, skipped)
    if not entry.is_dir():
        skipped.append((entry.path, NO_IMAGE))
    return False


def _usable(entry: os.DirEntry[str], skipped: Skipped, home: str | None = None) -> bool:
    """Tell whether an entry is a regular file (with `home`: or a link to one in it); if not, add it to `skipped`."""
    if entry.is_file(follow_symlinks=False):
        return True
    if not entry.is_symlink():
        reason = "it is not a regular file"
    elif not entry.is_file():
        reason = "its link does not lead to a regular file"
    elif home is not None and not os.path.realpath(entry.path).startswith(home.rstrip(os.sep) + os.sep):
        reason = "it is a link out of the folder"
    else:
        return True
    skipped.append((entry.path, reason))
    return False
