"""What changed in a folder of photos since it was indexed."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from zsbir.files import open_regular, stamp
from zsbir.search.catalog import Entry


@dataclass
class Changes:
    """The difference between the files of a source and the catalogue.

    Attributes:
        new: Files whose content is not in the index.
        copies: New files with the content of a photo that stays: its id, and the file.
        moved: Photos whose content is now elsewhere, or that were only touched: id, and the file.
        changed: Ids of photos whose file holds something else now.
        vanished: Ids of photos of this source whose file is gone.
        kept: Photos whose file is gone but that stay in the index, see `Index.update`.
        unreadable: Files that could not be opened, each with the reason.
        same: Number of photos that did not change.
        known: Number of photos of this source before.
    """

    new: list[Entry] = field(default_factory=list)
    copies: list[tuple[int, Entry]] = field(default_factory=list)
    moved: list[tuple[int, Entry]] = field(default_factory=list)
    changed: list[int] = field(default_factory=list)
    vanished: list[int] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    same: int = 0
    known: int = 0


def compare(
    files: Iterable[str],
    known: Iterable[tuple[int, Entry]],
    source: str = "",
    left_out: Sequence[tuple[str, str]] = (),
) -> Changes:
    """Compare the files of a source with the catalogue; content is read only where size or time differ.

    Args:
        files: Full paths.
        known: All photos of the catalogue.
        source: The folder or list that the files are from; photos of other sources never vanish. "": single files.
        left_out: Places that could not be read, each with the reason; photos there do not vanish either.
    """
    held = dict(known)
    by_path = {entry.path: number for number, entry in held.items()}
    changes = Changes(unreadable=list(left_out))
    fresh: list[Entry] = []
    found: set[int] = set()
    for path in files:
        number = by_path.get(path)
        try:
            path.encode()  # the catalogue holds UTF-8
            size, changed = stamp(path)
            if number is not None and (size, changed) == (held[number].size, held[number].changed):
                found.add(number)
                changes.same += 1
                continue
            entry = Entry(path, digest(path), size, changed, source)
        except UnicodeEncodeError:
            shown = os.fsencode(path).decode("utf-8", "backslashreplace")
            changes.unreadable.append((shown, "its name is not UTF-8"))
            continue
        except OSError as error:
            changes.unreadable.append((path, error.strerror or str(error)))
            continue
        if number is not None and entry.digest == held[number].digest:
            found.add(number)
            changes.moved.append((number, entry))
            changes.same += 1
        else:
            fresh.append(entry)
    mine = [number for number, entry in held.items() if source and _belongs(entry, source)]
    changes.known = len(mine)
    missing = set(mine) - found
    replaced = {by_path[entry.path] for entry in fresh if entry.path in by_path}
    _match(changes, fresh, held, missing | replaced)
    away = set(held) - found - {number for number, _ in changes.moved}
    changes.changed = sorted(replaced & away)
    unseen = [path for path, _ in changes.unreadable]
    for number in sorted(away & missing - replaced):
        hidden = any(held[number].path == path or held[number].path.startswith(path + os.sep) for path in unseen)
        (changes.kept if hidden else changes.vanished).append(number)
    return changes


def _belongs(entry: Entry, source: str) -> bool:
    return entry.source == source or entry.path.startswith(source.rstrip(os.sep) + os.sep)


def _match(changes: Changes, fresh: list[Entry], held: dict[int, Entry], lost: set[int]) -> None:
    """Find for each fresh file a photo with the same content: one that lost its file first, else one that stays."""
    homeless: dict[bytes, list[int]] = defaultdict(list)
    stays: dict[bytes, int] = {}
    wanted = {entry.digest for entry in fresh}
    for number, entry in held.items():
        if entry.digest not in wanted:
            continue
        if number in lost or not Path(entry.path).exists():
            homeless[entry.digest].append(number)
        else:
            stays[entry.digest] = number
    for entry in fresh:
        if homeless[entry.digest]:
            number = homeless[entry.digest].pop()
            stays[entry.digest] = number
            changes.moved.append((number, entry))
        elif entry.digest in stays:
            changes.copies.append((stays[entry.digest], entry))
        else:
            changes.new.append(entry)


def digest(path: str | Path) -> bytes:
    """Return BLAKE2b of a file's content, 16 bytes."""
    with open_regular(path) as stream:
        return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).digest()
