"""Split files: the classes and files of every part, with the SHA-256 of the whole.

Two people whose manifests have the same hash tested on the same files: the same classes, names and contents. The hash
is over the canonical JSON (sorted keys, no blanks, UTF-8) of everything but the hash itself::

    {"format": "zsbir-split-2",
     "classes": {"train": [...], "validation": [...], "test": [...]},
     "files": {"sketch": {"train": {class: [file, ...]}, ...}, "photo": {...}},
     "content": "...",
     "sha256": "..."}

``content`` is `zsbir.data.hashes.content_hash` of all files.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from zsbir.data.formats import split_record
from zsbir.data.hashes import content_hash
from zsbir.errors import ZsbirError
from zsbir.files import read_regular, reading
from zsbir.types import Domain, Paths, Records, Split

FORMAT = "zsbir-split-2"
PARTS = ("train", "validation", "test")
DOMAINS: tuple[Domain, ...] = ("sketch", "photo")


def describe(splits: Mapping[str, Split]) -> dict[str, Any]:
    """Return the manifest of a dataset's parts (`Dataset.parts`), its hash included, ready for JSON."""
    files: dict[str, dict[str, dict[str, list[str]]]] = {}
    for domain in DOMAINS:
        for part, split in splits.items():
            records = split.of(domain)
            groups: dict[str, list[str]] = {name: [] for name in split.classes}
            for path, label in zip(records.paths, records.labels.tolist(), strict=True):
                groups[split.classes[label]].append(path)
            files.setdefault(domain, {})[part] = {name: sorted(paths) for name, paths in groups.items()}
    body = {
        "format": FORMAT,
        "classes": {part: list(split.classes) for part, split in splits.items()},
        "files": files,
        "content": content_hash(*_all_files(splits)),
    }
    return {**body, "sha256": digest(body)}


def _all_files(splits: Mapping[str, Split]) -> tuple[Path, list[str]]:
    """Return the folder that all files lie in, and their names below it."""
    held = [split.of(domain) for split in splits.values() for domain in DOMAINS]
    return held[0].root, [path for records in held for path in records.paths]


def write_manifest(manifest: Mapping[str, Any], file: str | Path) -> None:
    """Write `Dataset.manifest()` for ``split=FILE``.

    Raises:
        ZsbirError: If the file is there already or cannot be written.
    """
    path = Path(file)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as stream:
            stream.write(json.dumps(manifest, indent=0, sort_keys=True) + "\n")
    except FileExistsError:
        raise ZsbirError(f"the split file {path} exists and is not overwritten: give another name") from None
    except OSError as error:
        raise ZsbirError(f"cannot write the split file {path}: {error.strerror}") from None


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str | None:
    """Return what changed from one manifest to another in a few words, or None if they are equal."""
    if old["sha256"] == new["sha256"]:
        return None
    before, after = _flat(old), _flat(new)
    changes = []
    for part in dict.fromkeys((*old["classes"], *new["classes"])):
        lost, added = (
            sorted(set(one["classes"].get(part, ())) - set(other["classes"].get(part, ())))
            for one, other in ((old, new), (new, old))
        )
        changes += [f"{part} lacks {_some(lost)}"] if lost else []
        changes += [f"{part} has {_some(added)} besides"] if added else []
    for names, what in (
        (before.keys() - after.keys(), "are gone"),
        (after.keys() - before.keys(), "are new"),
        ({name for name in before.keys() & after.keys() if before[name] != after[name]}, "moved to another class"),
    ):
        changes += [f"{len(names):,} files {what} ({_some(sorted(names))})"] if names else []
    return "; ".join(changes) or "files have other contents"


def _flat(manifest: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Return each file's part and class."""
    return {
        file: (part, name)
        for parts in manifest["files"].values()
        for part, classes in parts.items()
        for name, files in classes.items()
        for file in files
    }


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def digest(body: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a manifest, whatever hash it carries."""
    plain = {key: value for key, value in body.items() if key != "sha256"}
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def read_manifest(file: str | Path, root: Path, **given: Any) -> dict[str, Any]:
    """Read a split file.

    Args:
        file: What ``zsbir datasets split`` wrote.
        root: The folder its file names are relative to.
        **given: What a dataset was given beside the split file; all must be empty.

    Returns:
        The arguments of `zsbir.data.base.Dataset`.

    Raises:
        ZsbirError: If it is missing, no split file, edited since it was written, leads out of `root`, or names files
            that are not there; or if something was given that the split file already says.
    """
    if any(given.values()):
        raise ZsbirError(f"the split {file} says what is seen and held out: leave out {', '.join(given)}")
    path = Path(file)
    with reading("split file", path):
        body = json.loads(read_regular(path))
    if not isinstance(body, dict) or body.get("format") != FORMAT:
        raise ZsbirError(f"{path} is not a split file of `zsbir datasets split` (format {FORMAT})")
    if digest(body) != body.get("sha256"):
        raise ZsbirError(
            f"the split file {path} was changed after it was written: its hash does not fit; write it anew"
        )
    try:
        splits = {part: _split(root, body, part) for part in body["classes"] | dict.fromkeys(PARTS)}
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ZsbirError(f"the split file {path} is incomplete: {error!r} is missing; write it anew") from None
    missing = [str(name) for split in splits.values() for d in DOMAINS for name in _absent(split.of(d))]
    if missing:
        raise ZsbirError(
            f"{len(missing)} files of the split {path} are not under {root}, the first is {missing[0]}: check the root"
        )
    train, held = splits["train"], splits["validation"]
    sketches, photos = (_both(train.of(domain), held.of(domain), len(train.classes)) for domain in DOMAINS)
    return {
        "seen": Split(sketches, photos, train.classes + held.classes),
        "unseen": splits["test"],
        "validation": held.classes,
        "hold_out": splits.get("seen_test", 0.0),
        "expected_hash": str(body["sha256"]),
    }


def _split(root: Path, body: Mapping[str, Any], part: str) -> Split:
    classes = tuple(str(name) for name in body["classes"][part])
    made = {}
    for domain in DOMAINS:
        groups = [body["files"][domain][part][name] for name in classes]
        paths = Paths(path for group in groups for path in group)
        labels = np.repeat(np.arange(len(classes), dtype=np.int64), [len(group) for group in groups])
        made[domain] = Records(root, paths, labels)
    return Split(made["sketch"], made["photo"], classes)


def _absent(records: Records) -> list[str]:
    """Return the files that are not there; each folder is listed once instead of asking for every file."""
    held: dict[str, set[str]] = {}
    absent = []
    for path in records.paths:
        folder, _, name = split_record(path)[0].rpartition("/")
        if ".." in folder.split("/") or folder.startswith("/"):
            raise ZsbirError(f"a split file must not lead out of the dataset's root, but it names {path}")
        if folder not in held:
            where = records.root / folder
            held[folder] = set(os.listdir(where)) if os.path.isdir(where) else set()  # noqa: PTH112, PTH208 (any name)
        if name not in held[folder]:
            absent.append(path)
    return absent


def _both(first: Records, second: Records, offset: int) -> Records:
    labels = np.concatenate([first.labels, second.labels + offset])
    return Records(first.root, Paths.join([first.paths, second.paths]), labels)
