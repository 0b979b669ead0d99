"""The published list files: one image path and one class number a line.

The class of an image is its folder's name. The numbers are compared with it and reported, never followed: the same
``zeroshot2`` numbers its classes in three ways in three repositories. Which benchmark a list folder belongs to is
told by the classes in it, not by its name.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from zsbir.errors import ZsbirError
from zsbir.names import canonical
from zsbir.types import Labels, Paths, Records


@dataclass
class ListPart:
    """What one list says.

    Attributes:
        records: Its images of the wanted classes, in the list's order.
        present: Classes with at least one line.
        absent: Classes whose folder is not there.
        problems: One sentence each on numbers that disagree and classes that do not belong.
    """

    records: Records
    present: set[str] = field(default_factory=set)
    absent: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)


def find_lists(root: Path, facts: Mapping[str, Any]) -> dict[str, Path] | None:
    """Return the lists under ``root/zeroshot*`` whose classes are those of a benchmark, or None.

    Args:
        root: The data set's folder.
        facts: See `zsbir.data.datasets.published.published`.

    Returns:
        ``"sketch_train"``, ``"sketch_test"``, ``"photo_train"`` and ``"photo_test"`` to the list's path.
    """
    for folder in sorted(path for path in root.glob("zeroshot*") if path.is_dir()):
        lists = {part: folder / item["file"] for part, item in facts["lists"].items()}
        if all(path.is_file() for path in lists.values()) and all(
            _classes(lists[part]) == set(map(canonical, facts[side]))
            for part, side in (("photo_test", "unseen"), ("photo_train", "seen"))
        ):
            return lists
    return None


def _classes(path: Path) -> set[str]:
    folders = {file.rpartition("/")[0] for file in read_list(path)[0]}
    return {canonical(folder.rpartition("/")[2]) for folder in folders}


def read_list(path: Path) -> tuple[list[str], Labels]:
    """Read a list file.

    Paths may contain blanks (the number is what follows the last one) and backslashes.

    Args:
        path: The file: UTF-8, with or without byte-order mark.

    Returns:
        The paths with forward slashes, and (n,) int64 their numbers; -1 where a line has none.

    Raises:
        ZsbirError: If the file cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise ZsbirError(f"cannot read the list {path}: {error.strerror}") from None
    paths: list[str] = []
    numbers: list[int] = []
    for line in map(str.strip, text.replace("\\", "/").replace("\t", " ").split("\n")):
        if not line:
            continue
        name, _, number = line.rpartition(" ")
        numbered = bool(name) and number.isdecimal() and len(number) < 10
        paths.append((name.rstrip() if numbered else line).removeprefix("./"))
        numbers.append(int(number) if numbered else -1)
    return paths, np.array(numbers, dtype=np.int64)


def read_part(root: Path, path: Path, classes: list[str]) -> ListPart:
    """Read one list and label its images by their folders.

    Args:
        root: What the list's paths are relative to.
        path: The list.
        classes: The class names in published id order.

    Returns:
        The images of `classes`; what else the list has, or says wrongly, is in `problems`.
    """
    names, numbers = read_list(path)
    known = {canonical(name): number for number, name in enumerate(classes)}
    find = _finder(root)
    folders: dict[str, tuple[str | None, int]] = {}
    labels = np.empty(len(names), dtype=np.int64)
    resolved: list[str] = []
    for row, name in enumerate(names):
        folder, _, file = name.rpartition("/")
        if folder not in folders:
            folders[folder] = find(folder), known.get(canonical(folder.rpartition("/")[2]), -1)
        there, labels[row] = folders[folder]
        resolved.append(f"{there or folder}/{file}")
    keep = labels >= 0
    part = ListPart(Records(root, Paths(resolved), labels).where(keep))
    part.present = {classes[label] for label in np.unique(labels[keep]).tolist()}
    part.absent = {classes[label] for there, label in folders.values() if there is None and label >= 0}
    other = {folder.rpartition("/")[2] for folder, (_, label) in folders.items() if label < 0}
    wrong = int(np.sum(keep & (numbers >= 0) & (numbers != labels)))
    where = f"{path.parent.name}/{path.name}"
    if wrong:
        part.problems.append(
            f"{where}: {wrong} of {len(names)} class numbers disagree with their folders; folders count"
        )
    if other:
        part.problems.append(
            f"{where}: {int((~keep).sum())} images of {len(other)} classes that do not belong left out"
        )
    return part


def _finder(root: Path) -> Callable[[str], str | None]:
    """Return what finds a list's folder on the disk, where it may lack ``_ready`` or spell a class otherwise."""

    @cache
    def held(folder: str) -> dict[str, str]:
        where = root / folder
        names = sorted(entry.name for entry in os.scandir(where) if entry.is_dir()) if os.path.isdir(where) else []  # noqa: PTH112 (any name)
        return {canonical(name): name for name in names}

    def find(folder: str) -> str | None:
        if ".." in folder.split("/"):
            return None
        parent, _, name = folder.rpartition("/")
        plain = parent.removesuffix("_ready")
        # The extended photos are often unpacked beside 256x256 instead of in it.
        for there in dict.fromkeys((parent, plain, parent.removeprefix("256x256/"), plain.removeprefix("256x256/"))):
            names = held(there)
            if name in names.values():
                return f"{there}/{name}"
            if canonical(name) in names:
                return f"{there}/{names[canonical(name)]}"
        return None

    return find
