"""Is a data set on the disk what it should be? Counts, missing and broken files, duplicates; nothing is written."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from zsbir.data.base import CHANGED, Dataset
from zsbir.data.content import MISSING, fingerprints, in_chunks, record_bytes, sizes, undecodable
from zsbir.data.datasets.published import Reading, published
from zsbir.data.scan import Skipped, describe_skipped
from zsbir.types import Paths, Records, Split

SHOWN = 20
"""How many examples of each kind of problem a report lists."""


@dataclass
class CheckReport:
    """What was found.

    Attributes:
        name: The data set.
        root: Its folder.
        source: What the splits were read from.
        counts: One row for each part and domain: part, domain, classes, images, published (or None).
        errors: What makes scores wrong or training fail.
        warnings: What a reader should know.
        examples: Kind of problem to the first files.
        checked: Number of files; decoded: whether they were decoded.
    """

    name: str
    root: str
    source: str
    counts: list[dict[str, Any]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    examples: dict[str, list[str]] = field(default_factory=dict)
    checked: int = 0
    decoded: bool = False

    @property
    def ok(self) -> bool:
        """Whether there is no error."""
        return not self.errors

    def as_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {**asdict(self), "ok": self.ok}

    def table(self) -> str:
        """Return the report as text."""
        rows = [("part", "domain", "classes", "images", "published")]
        rows += [
            (c["part"], c["domain"], str(c["classes"]), f"{c['images']:,}", _number(c["published"]))
            for c in self.counts
        ]
        widths = [max(len(row[i]) for row in rows) for i in range(5)]
        lines = [f"{self.name} in {self.root}, read from {self.source}"]
        lines += [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
        ]
        for kind, texts in (("error", self.errors), ("warning", self.warnings)):
            lines += [f"{kind}: {text}" for text in texts]
        for kind, files in self.examples.items():
            lines += [f"{kind}:", *(f"  {file}" for file in files)]
        how = "decoded" if self.decoded else "not decoded"
        lines.append(f"{'ok' if self.ok else 'not ok'}: {self.checked:,} files checked ({how})")
        return "\n".join(lines)


def check_reading(name: str, root: Path, reading: Reading, **options: Any) -> CheckReport:
    """Check a published benchmark; `options` as for `check_parts`."""
    report = CheckReport(name, str(root), reading.source)
    facts = published(name)
    parts = {"train": reading.seen, "test": reading.unseen}
    from_lists = reading.source.startswith("lists")
    for part, split in parts.items():
        for domain in ("sketch", "photo"):
            expected = facts["lists"][f"{domain}_{part}"]["count"]
            found = len(split.of(domain))
            _count(report, part, domain, split, expected)
            # PuXIM's sketch list is that of another split: its other classes are left out on purpose.
            other = name == "sketchy-ambiguity" and (domain, part) == ("sketch", "train")
            if expected is not None and found != expected and not other:
                text = f"{part} has {found:,} {domain} images, published are {expected:,}"
                (report.errors if from_lists else report.warnings).append(text)
    if reading.missing:
        report.errors.append(f"{len(reading.missing)} classes without images: {_some(reading.missing)}")
    if reading.extra:
        report.warnings.append(f"{len(reading.extra)} folders of no class of {name}: {_some(reading.extra)}")
    _skipped(report, reading.skipped)
    report.warnings += reading.problems
    overlap = set(reading.seen.classes) & set(reading.unseen.classes)
    if overlap:
        report.warnings.append(f"{len(overlap)} training classes are test classes: {_some(sorted(overlap))}")
    return check_parts(report, parts, root, **options)


def check_dataset(name: str, dataset: Dataset, **options: Any) -> CheckReport:
    """Check any other data set that was opened; `options` as for `check_parts`."""
    root = dataset.train.photos.root
    spec = getattr(dataset, "spec", {})
    source = "a split file" if spec.get("split") else {"folder": "class folders", "table": "a table"}.get(name, "code")
    report = CheckReport(name, str(root), source)
    for part, split in dataset.parts.items():
        if split.classes:
            for domain in ("sketch", "photo"):
                _count(report, part, domain, split, None)
    _skipped(report, getattr(dataset, "skipped", []))
    report.warnings += dataset.notes
    with warnings.catch_warnings(action="ignore"):
        if dataset.changed_since_split:
            report.errors.append(CHANGED)
    return check_parts(report, dataset.parts, root, **options)


def check_parts(
    report: CheckReport,
    parts: Mapping[str, Split],
    root: Path,
    decode: bool = False,
    workers: int | None = None,
    tick: Callable[[str, int, int], object] = lambda what, done, total: None,
) -> CheckReport:
    """Look at every file of `parts` and add what is wrong to `report`.

    Args:
        report: Where problems go.
        parts: Part name to split; ``"test"`` is compared with the others.
        root: What the paths are relative to.
        decode: Also decode every image.
        workers: Processes; None: one for each core.
        tick: Called with what is being done, how many files are done, and of how many.
    """
    workers = workers or os.cpu_count() or 1
    paths, is_test, is_photo = _flatten(parts)
    report.checked = len(paths)

    def stage(what: str, total: int) -> Callable[[int], None]:
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            tick(what, done, total)

        return advance

    where = str(root)
    # One process: a stat costs less than sending its path to another one.
    held = _joined(list(in_chunks(partial(sizes, where), paths, 1, stage("sizes", len(paths)))), np.int64)
    _problem(report, "missing files", [paths[i] for i in np.flatnonzero(held == MISSING).tolist()])
    _problem(report, "empty files", [paths[i] for i in np.flatnonzero(held == 0).tolist()])
    candidates = np.flatnonzero((held > 0) & (_shared(held, is_test) | _shared(held, is_photo)))
    some = paths.take(candidates)
    found = in_chunks(partial(fingerprints, where), some, workers, stage("hashes", len(some)))
    prints = _joined(list(found), np.uint64)
    pairs = _twins(root, some, prints, is_test[candidates])
    _problem(report, "duplicates between training and test", [f"{a} = {b}" for a, b in pairs])
    pairs = _twins(root, some, prints, is_photo[candidates])
    _problem(report, "duplicates between sketch and photo", [f"{a} = {b}" for a, b in pairs])
    if decode:
        report.decoded = True
        texts = in_chunks(partial(undecodable, where), paths, workers, stage("decoding", len(paths)))
        _problem(report, "undecodable images", [text for chunk in texts for text in chunk])
    return report


def _flatten(parts: Mapping[str, Split]) -> tuple[Paths, npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Return all paths with (n,) bool whether each is a test image, and whether it is a photo."""
    groups: list[tuple[Records, bool, bool]] = []
    for part, split in parts.items():
        groups += [(split.sketches, part == "test", False), (split.photos, part == "test", True)]
    lengths = [len(records) for records, _, _ in groups]
    return (
        Paths.join(records.paths for records, _, _ in groups),
        np.repeat([test for _, test, _ in groups], lengths),
        np.repeat([photo for _, _, photo in groups], lengths),
    )


def _shared(values: npt.NDArray[Any], side: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Return (n,) bool: does the value occur on both sides?"""
    both = np.intersect1d(values[side], values[~side])
    return np.isin(values, both)


def _twins(
    root: Path, paths: Paths, prints: npt.NDArray[np.uint64], side: npt.NDArray[np.bool_]
) -> list[tuple[str, str]]:
    """Return pairs of records of equal content, one of each side; each record of the first side once."""
    rows = np.flatnonzero(_shared(prints, side) & (prints != 0))
    first: dict[int, str] = {}
    for row in rows[side[rows]].tolist():
        first.setdefault(int(prints[row]), paths[row])
    pairs = []
    for row in rows[~side[rows]].tolist():
        other = first[int(prints[row])]
        if record_bytes(f"{root}/{paths[row]}") == record_bytes(f"{root}/{other}"):
            pairs.append((paths[row], other))
    return pairs


def _joined(chunks: list[npt.NDArray[Any]], kind: type) -> npt.NDArray[Any]:
    return np.concatenate(chunks) if chunks else np.zeros(0, dtype=kind)


def _problem(report: CheckReport, kind: str, found: list[str]) -> None:
    if found:
        report.errors.append(f"{len(found):,} {kind}")
        report.examples[kind] = found[:SHOWN]


def _skipped(report: CheckReport, found: Skipped) -> None:
    if found:
        report.warnings.append(describe_skipped(found))
        report.examples["left out"] = [f"{path}: {reason}" for path, reason in found[:SHOWN]]


def _count(report: CheckReport, part: str, domain: str, split: Split, expected: int | None) -> None:
    records = split.sketches if domain == "sketch" else split.photos
    classes = len(np.unique(records.labels))
    row = {"part": part, "domain": domain, "classes": classes, "images": len(records), "published": expected}
    report.counts.append(row)


def _some(names: list[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _number(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"
