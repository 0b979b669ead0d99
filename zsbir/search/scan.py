"""What changed in a folder of photos since it was indexed."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from zsbir.files import open_regular, stamp
from zsbir.search.catalog import Entry


@dataclass
class Changes:
    """The difference between the files and the catalogue.

    Attributes:
        new: Files whose content is not in the index.
        copies: New files with the content of a photo that stays: its id, and the file.
        moved: Photos whose content is now elsewhere, or that were only touched: id, and the file.
        gone: Ids of photos whose file is away or has changed.
        unreadable: Files that could not be opened, each with the reason.
        same: Number of photos that did not change.
    """

    new: list[Entry] = field(default_factory=list)
    copies: list[tuple[int, Entry]] = field(default_factory=list)
    moved: list[tuple[int, Entry]] = field(default_factory=list)
    gone: list[int] = field(default_factory=list)
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    same: int = 0


def compare(files: Iterable[str], known: Iterable[tuple[int, Entry]]) -> Changes:
    """Compare files with the catalogue; content is read only where size or time differ."""
    held = dict(known)
    by_path = {entry.path: number for number, entry in held.items()}
    changes = Changes()
    fresh: list[Entry] = []
    kept: set[int] = set()
    for path in files:
        number = by_path.get(path)
        try:
            path.encode()  # the catalogue holds UTF-8
            size, changed = stamp(path)
            if number is not None and (size, changed) == (held[number].size, held[number].changed):
                kept.add(number)
                changes.same += 1
                continue
            entry = Entry(path, digest(path), size, changed)
        except UnicodeEncodeError:
            shown = os.fsencode(path).decode("utf-8", "backslashreplace")
            changes.unreadable.append((shown, "its name is not UTF-8"))
            continue
        except OSError as error:
            changes.unreadable.append((path, error.strerror or str(error)))
            continue
        if number is not None and entry.digest == held[number].digest:
            kept.add(number)
            changes.moved.append((number, entry))
            changes.same += 1
        else:
            fresh.append(entry)
    _match(changes, fresh, held, kept)
    return changes


def _match(changes: Changes, fresh: list[Entry], held: dict[int, Entry], kept: set[int]) -> None:
    """Find for each fresh file a photo with the same content: one that lost its file first, else one that stays."""
    lost: dict[bytes, list[int]] = defaultdict(list)
    stays: dict[bytes, int] = {}
    for number, entry in held.items():
        if number in kept:
            stays[entry.digest] = number
        else:
            lost[entry.digest].append(number)
    gone = set(held) - kept
    for entry in fresh:
        if lost[entry.digest]:
            number = lost[entry.digest].pop()
            gone.discard(number)
            stays[entry.digest] = number
            changes.moved.append((number, entry))
        elif entry.digest in stays:
            changes.copies.append((stays[entry.digest], entry))
        else:
            changes.new.append(entry)
    changes.gone = sorted(gone)


def digest(path: str | Path) -> bytes:
    """Return BLAKE2b of a file's content, 16 bytes."""
    with open_regular(path) as stream:
        return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).digest()
