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
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zsbir.data.formats import split_record
from zsbir.data.hashes import content_hash
from zsbir.errors import ZsbirError
from zsbir.types import Domain, Paths, Records, Split

if TYPE_CHECKING:
    from zsbir.data.base import Dataset

FORMAT = "zsbir-split-2"
PARTS = ("train", "validation", "test")
DOMAINS: tuple[Domain, ...] = ("sketch", "photo")


@dataclass(frozen=True, eq=False)
class Manifest:
    """A split file that was read, under the root its files are relative to.

    Attributes:
        root: The dataset's folder.
        splits: ``"train"``, ``"validation"``, ``"test"``, and ``"seen_test"`` where the file has it.
        sha256: The manifest's hash, 64 hexadecimal digits.
    """

    root: Path
    splits: Mapping[str, Split]
    sha256: str

    def parts(self) -> dict[str, Any]:
        """Return the arguments of `zsbir.data.base.Dataset`."""
        train, held = self.splits["train"], self.splits["validation"]
        sketches, photos = (_both(train.of(domain), held.of(domain), len(train.classes)) for domain in DOMAINS)
        seen = Split(sketches, photos, train.classes + held.classes)
        hold_out: float | Split = self.splits.get("seen_test", 0.0)
        return {
            "seen": seen,
            "unseen": self.splits["test"],
            "validation": held.classes,
            "hold_out": hold_out,
            "expected_hash": self.sha256,
        }


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


def write_manifest(dataset: Dataset, file: str | Path) -> dict[str, Any]:
    """Write a dataset's manifest for ``split=FILE`` and return it.

    Raises:
        ZsbirError: If the file cannot be written.
    """
    manifest, path = dataset.manifest(), Path(file)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(manifest, indent=0, sort_keys=True) + "\n", encoding="utf-8")
    except OSError as error:
        raise ZsbirError(f"cannot write the split file {path}: {error.strerror}") from None
    return manifest


def digest(body: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a manifest, whatever hash it carries."""
    plain = {key: value for key, value in body.items() if key != "sha256"}
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def read_manifest(file: str | Path, root: Path) -> Manifest:
    """Read a split file.

    Args:
        file: What ``zsbir datasets split`` wrote.
        root: The folder its file names are relative to.

    Raises:
        ZsbirError: If it is missing, no split file, edited since it was written, leads out of `root`, or names files
            that are not there.
    """
    path = Path(file)
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ZsbirError(f"cannot read the split file {path}: {error.strerror}") from None
    except ValueError as error:
        raise ZsbirError(f"the split file {path} is not JSON: {error}") from None
    if not isinstance(body, dict) or body.get("format") != FORMAT:
        raise ZsbirError(f"{path} is not a split file of `zsbir datasets split` (format {FORMAT})")
    if digest(body) != body.get("sha256"):
        raise ZsbirError(
            f"the split file {path} was changed after it was written: its hash does not fit; write it anew"
        )
    try:
        splits = {part: _split(root, body, part) for part in body["classes"] | dict.fromkeys(PARTS)}
    except (KeyError, TypeError, AttributeError) as error:
        raise ZsbirError(f"the split file {path} is incomplete: {error!r} is missing; write it anew") from None
    missing = [str(name) for split in splits.values() for d in DOMAINS for name in _absent(split.of(d))]
    if missing:
        raise ZsbirError(
            f"{len(missing)} files of the split {path} are not under {root}, the first is {missing[0]}: check the root"
        )
    return Manifest(root, splits, str(body["sha256"]))


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
            held[folder] = {entry.name for entry in where.iterdir()} if where.is_dir() else set()
        if name not in held[folder]:
            absent.append(path)
    return absent


def _both(first: Records, second: Records, offset: int) -> Records:
    labels = np.concatenate([first.labels, second.labels + offset])
    return Records(first.root, Paths.join([first.paths, second.paths]), labels)
