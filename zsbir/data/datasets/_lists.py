"""The published list files: one image path and one class number a line.

The class of an image is its folder's name. The numbers are compared with it and reported, never followed: the same
``zeroshot2`` numbers its classes in three ways in three repositories. Which benchmark a list folder belongs to is
told by the classes in it, not by its name.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from zsbir.errors import ZsbirError
from zsbir.names import canonical
from zsbir.types import Labels, Paths, Records


@dataclass(frozen=True)
class ListFiles:
    """The four lists of one benchmark.

    Attributes:
        folder: The name of their folder.
        files: ``"sketch_train"``, ``"sketch_test"``, ``"photo_train"`` and ``"photo_test"`` to the list's path.
    """

    folder: str
    files: Mapping[str, Path]


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


def find_lists(root: Path, facts: Mapping[str, Any]) -> ListFiles | None:
    """Return the lists under ``root/zeroshot*`` whose classes are those of a benchmark, or None.

    Args:
        root: The data set's folder.
        facts: See `zsbir.data.datasets.published.published`.
    """
    for folder in sorted(path for path in root.glob("zeroshot*") if path.is_dir()):
        lists = {part: folder / item["file"] for part, item in facts["lists"].items()}
        if not all(path.is_file() for path in lists.values()):
            continue
        if _classes(lists["photo_test"]) == {canonical(name) for name in facts["unseen"]} and _classes(
            lists["photo_train"]
        ) == {canonical(name) for name in facts["seen"]}:
            return ListFiles(folder.name, lists)
    return None


def _classes(path: Path) -> set[str]:
    return {canonical(name.rpartition("/")[2]) for name in {path.rpartition("/")[0] for path in read_list(path)[0]}}


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
    for line in text.replace("\\", "/").replace("\t", " ").split("\n"):
        stripped = line.strip()
        if not stripped:
            continue
        name, _, number = stripped.rpartition(" ")
        if name and number.isdecimal() and len(number) < 10:
            paths.append(name.rstrip().removeprefix("./"))
            numbers.append(int(number))
        else:
            paths.append(stripped.removeprefix("./"))
            numbers.append(-1)
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
    finder = _FolderFinder(root)
    folders: dict[str, tuple[str, int]] = {}
    labels = np.empty(len(names), dtype=np.int64)
    resolved: list[str] = []
    absent: set[str] = set()
    other: set[str] = set()
    for row, name in enumerate(names):
        folder, _, file = name.rpartition("/")
        if folder not in folders:
            own = folder.rpartition("/")[2]
            label = known.get(canonical(own), -1)
            there = finder.find(folder)
            if label < 0:
                other.add(own)
            elif there is None:
                absent.add(classes[label])
            folders[folder] = (there or folder, label)
        there, labels[row] = folders[folder]
        resolved.append(f"{there}/{file}")
    keep = labels >= 0
    part = ListPart(Records(root, Paths(resolved), labels).where(keep), absent=absent)
    part.present = {classes[label] for label in np.unique(labels[keep]).tolist()}
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


class _FolderFinder:
    """Finds a list's folder on the disk, where it may lack ``_ready`` or spell a class otherwise."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._listed: dict[str, dict[str, str]] = {}

    def find(self, folder: str) -> str | None:
        if ".." in folder.split("/"):
            return None
        parent, _, name = folder.rpartition("/")
        plain = parent.removesuffix("_ready")
        # The extended photos are often unpacked beside 256x256 instead of in it.
        for there in dict.fromkeys((parent, plain, parent.removeprefix("256x256/"), plain.removeprefix("256x256/"))):
            listed = self._list(there)
            if name in listed.values():
                return f"{there}/{name}"
            if canonical(name) in listed:
                return f"{there}/{listed[canonical(name)]}"
        return None

    def _list(self, folder: str) -> dict[str, str]:
        if folder not in self._listed:
            where = self._root / folder
            names = sorted(entry.name for entry in os.scandir(where) if entry.is_dir()) if os.path.isdir(where) else []  # noqa: PTH112 (any name)
            self._listed[folder] = {canonical(name): name for name in names}
        return self._listed[folder]
