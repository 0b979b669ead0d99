"""Split files: the classes and files of every part, with the SHA-256 of the whole.

Two people whose manifests have the same hash tested on the same files: the same classes, names and contents. The hash
is over the canonical JSON (sorted keys, no blanks, UTF-8) of everything but the hash itself::

    {"format": "zsbir-split-2",
     "classes": {"train": [...], "validation": [...], "test": [...]},
     "files": {"sketch": {"train": {class: [file, ...]}, ...}, "photo": {...}},
     "content": "...",
     "sha256": "..."}

``content`` is `zsbir.data.content.content_hash` of all files.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zsbir.data.content import content_hash
from zsbir.data.formats import split_record
from zsbir.data.scan import labelled
from zsbir.errors import ZsbirError
from zsbir.files import read_regular, reading, writing
from zsbir.names import some
from zsbir.types import DOMAINS, Domain, Paths, Records, Split

FORMAT = "zsbir-split-2"
PARTS = ("train", "validation", "test")


def describe(splits: Mapping[str, Split]) -> dict[str, Any]:
    """Return the manifest of a dataset's parts (`Dataset.parts`), its hash included, ready for JSON."""
    files: dict[Domain, dict[str, dict[str, list[str]]]] = {domain: {} for domain in DOMAINS}
    for domain, parts in files.items():
        for part, split in splits.items():
            records = split.of(domain)
            groups = parts[part] = {name: [] for name in split.classes}
            for path, label in sorted(zip(records.paths, records.labels.tolist(), strict=True)):
                groups[split.classes[label]].append(path)
    held = [split.of(domain) for split in splits.values() for domain in DOMAINS]
    body = {
        "format": FORMAT,
        "classes": {part: list(split.classes) for part, split in splits.items()},
        "files": files,
        "content": content_hash(held[0].root, (path for records in held for path in records.paths)),
    }
    return {**body, "sha256": digest(body)}


def write_manifest(manifest: Mapping[str, Any], file: str | Path) -> None:
    """Write `Dataset.manifest()` for ``split=FILE``.

    Raises:
        ZsbirError: If the file is there already or cannot be written.
    """
    path = Path(file)
    if path.exists():
        raise ZsbirError(f"the split file {path} exists and is not overwritten: give another name")
    with writing("split file", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as stream:
            stream.write(json.dumps(manifest, indent=0, sort_keys=True) + "\n")


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str | None:
    """Return what changed from one manifest to another in a few words, or None if they are equal."""
    if old["sha256"] == new["sha256"]:
        return None
    changes = []
    for part in dict.fromkeys((*old["classes"], *new["classes"])):
        before, after = (set(one["classes"].get(part, ())) for one in (old, new))
        changes += [f"{part} lacks {some(sorted(before - after), 3)}"] if before - after else []
        changes += [f"{part} has {some(sorted(after - before), 3)} in addition"] if after - before else []
    was, now = _flat(old), _flat(new)
    for names, what in (
        (was.keys() - now.keys(), "are gone"),
        (now.keys() - was.keys(), "are new"),
        ({name for name in was.keys() & now.keys() if was[name] != now[name]}, "moved to another class"),
    ):
        changes += [f"{len(names):,} files {what} ({some(sorted(names), 3)})"] if names else []
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


def digest(body: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a manifest without the hash in it."""
    plain = {key: value for key, value in body.items() if key != "sha256"}
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def read_manifest(file: str | Path, root: Path, **given: Any) -> dict[str, Any]:
    """Read a split file.

    Args:
        file: What ``zsbir datasets split`` wrote.
        root: The folder its file names are relative to.
        **given: The dataset's other arguments that a split file replaces; all must be empty.

    Returns:
        The arguments of `zsbir.data.base.Dataset`.

    Raises:
        ZsbirError: If it is missing, no split file, edited since it was written, leads out of `root`, or names files
            that are not there; or if something was given that the split file already says.
    """
    if any(given.values()):
        names = ", ".join(name for name, value in given.items() if value)
        raise ZsbirError(f"the split {file} says what is seen and held out: leave out {names}")
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
        seen, unseen = _split(root, body, "train", "validation"), _split(root, body, "test")
        others = {part: _split(root, body, part) for part in body["classes"] if part not in PARTS}
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ZsbirError(f"the split file {path} is incomplete: {error!r} is missing; write it anew") from None
    missing = [name for split in (seen, unseen, *others.values()) for d in DOMAINS for name in _absent(split.of(d))]
    if missing:
        raise ZsbirError(
            f"{len(missing)} files of the split {path} are not under {root}, the first is {missing[0]}: check the root"
        )
    return {
        "seen": seen,
        "unseen": unseen,
        "validation": seen.classes[len(body["classes"]["train"]) :],
        "hold_out": others.get("seen_test", 0.0),
        "expected_hash": str(body["sha256"]),
    }


def _split(root: Path, body: Mapping[str, Any], *parts: str) -> Split:
    classes = [(part, str(name)) for part in parts for name in body["classes"][part]]
    files = body["files"]
    return Split.by_domain(
        lambda domain: labelled(root, [Paths(files[domain][part][name]) for part, name in classes]),
        tuple(name for _, name in classes),
    )


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
