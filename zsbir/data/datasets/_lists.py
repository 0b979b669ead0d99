"""The published list files: one image path and one class number a line.

The class of an image is its folder's name. The numbers are compared with it and reported, never followed: the same
``zeroshot2`` numbers its classes in three ways in three repositories. The classes in a list folder, not its name, tell
which benchmark it belongs to.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from zsbir.files import reading
from zsbir.names import canonical
from zsbir.types import Labels, Paths, Records


@dataclass
class ListPart:
    """What one list says.

    Attributes:
        records: Its images of the wanted classes, in the list's order.
        lacking: Wanted classes without a line, or whose folder is not there.
        problems: One sentence each on numbers that disagree and classes that do not belong.
    """

    records: Records
    lacking: list[str]
    problems: list[str]


def find_lists(root: Path, facts: Mapping[str, Any]) -> dict[str, Path] | None:
    """Return by part (``"sketch_train"``) the lists under ``root/zeroshot*`` with a benchmark's classes, or None."""
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
    """Return a list's paths, with forward slashes, and (n,) int64 their numbers; -1 where a line has none.

    Paths may contain blanks: the number is what follows the last one.
    """
    with reading("list", path):
        text = path.read_text(encoding="utf-8-sig", errors="surrogateescape")
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
    """Read one list, whose paths are relative to `root`, and label its images by their folders."""
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
    absent = {label for there, label in folders.values() if there is None}
    present = set(labels.tolist()) - absent
    other = {folder.rpartition("/")[2] for folder, (_, label) in folders.items() if label < 0}
    wrong = int(np.sum(keep & (numbers >= 0) & (numbers != labels)))
    where = f"{path.parent.name}/{path.name}"
    problems = []
    if wrong:
        problems.append(f"{where}: {wrong} of {len(names)} class numbers disagree with their folders; folders count")
    if other:
        problems.append(f"{where}: {int((~keep).sum())} images of {len(other)} classes that do not belong left out")
    lacking = [name for label, name in enumerate(classes) if label not in present]
    return ListPart(Records(root, Paths(resolved), labels).where(keep), lacking, problems)


def _finder(root: Path) -> Callable[[str], str | None]:
    """Return a function that finds a list's folder; on the disk it may lack ``_ready`` or spell a class differently."""

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
