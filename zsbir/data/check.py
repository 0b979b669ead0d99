"""Check a dataset on the disk: count its images, find missing and broken files and duplicates; write nothing."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from zsbir.data.base import CHANGED, Dataset
from zsbir.data.content import MISSING, each, fingerprint, problem, record_bytes, record_size
from zsbir.data.datasets.published import Reading, published
from zsbir.data.images import load_image
from zsbir.data.scan import Skipped, describe_skipped
from zsbir.names import some
from zsbir.types import DOMAINS, Paths, Split

SHOWN = 20
"""How many examples of each kind of problem a report lists."""


@dataclass
class CheckReport:
    """What a check found.

    Attributes:
        name: The dataset.
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
        columns = ("part", "domain", "classes", "images", "published")
        rows = [columns, *(tuple(_cell(count[name]) for name in columns) for count in self.counts)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [f"{self.name} in {self.root}, read from {self.source}"]
        lines += ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        lines += [f"error: {text}" for text in self.errors] + [f"warning: {text}" for text in self.warnings]
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
    published_counts = {part: item["count"] for part, item in facts["lists"].items()}
    _count(report, parts, published_counts)
    for row in report.counts:
        part, domain, found, expected = (row[key] for key in ("part", "domain", "images", "published"))
        # PuXIM's sketch list belongs to another split: its other classes are left out on purpose.
        other = name == "sketchy-ambiguity" and (domain, part) == ("sketch", "train")
        if expected not in (None, found) and not other:
            text = f"{part} has {found:,} {domain} images, published are {expected:,}"
            (report.errors if reading.source.startswith("lists") else report.warnings).append(text)
    if reading.missing:
        report.errors.append(f"{len(reading.missing)} classes without images: {some(reading.missing)}")
    if reading.extra:
        report.warnings.append(f"{len(reading.extra)} folders of no class of {name}: {some(reading.extra)}")
    _skipped(report, reading.skipped)
    report.warnings += reading.problems
    overlap = sorted(set(reading.seen.classes) & set(reading.unseen.classes))
    if overlap:
        report.warnings.append(f"{len(overlap)} training classes are test classes: {some(overlap)}")
    return check_parts(report, parts, root, **options)


def check_dataset(name: str, dataset: Dataset, **options: Any) -> CheckReport:
    """Check any other dataset that was opened; `options` as for `check_parts`."""
    root = dataset.train.photos.root
    spec = getattr(dataset, "spec", {})
    source = "a split file" if spec.get("split") else {"folder": "class folders", "table": "a table"}.get(name, "code")
    report = CheckReport(name, str(root), source)
    _count(report, dataset.parts, {})
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
) -> CheckReport:
    """Look at every file of `parts` and add what is wrong to `report`.

    Args:
        report: Where problems go.
        parts: Part name to split; ``"test"`` is compared with the others.
        root: What the paths are relative to.
        decode: Also decode every image.
        workers: Processes; None: one for each core.
    """
    workers = workers or os.cpu_count() or 1
    groups = [(part, domain, split.of(domain).paths) for part, split in parts.items() for domain in DOMAINS]
    paths = Paths.join(held for _, _, held in groups)
    lengths = [len(held) for _, _, held in groups]
    is_test = np.repeat([part == "test" for part, _, _ in groups], lengths)
    is_photo = np.repeat([domain == "photo" for _, domain, _ in groups], lengths)
    files = Paths(f"{root}/{path}" for path in paths)
    report.checked = len(files)

    # One process: a stat costs less than sending its path to another one.
    sizes = np.fromiter(each(record_size, files, 1, "sizes"), np.int64, len(files))
    _problem(report, "missing files", [paths[i] for i in np.flatnonzero(sizes == MISSING).tolist()])
    _problem(report, "empty files", [paths[i] for i in np.flatnonzero(sizes == 0).tolist()])
    alike = np.flatnonzero((sizes > 0) & (_shared(sizes, is_test) | _shared(sizes, is_photo)))
    found = each(fingerprint, files.take(alike), workers, "hashes")
    prints = np.zeros(len(files), dtype=np.uint64)
    prints[alike] = np.fromiter(found, np.uint64, len(alike))
    for side, what in ((is_test, "training and test"), (is_photo, "sketch and photo")):
        twins = [f"{paths[a]} = {paths[b]}" for a, b in _twins(files, prints, side)]
        _problem(report, f"duplicates between {what}", twins)
    if decode:
        report.decoded = True
        texts = each(partial(problem, load_image), files, workers, "decoding")
        _problem(report, "undecodable images", list(filter(None, texts)))
    return report


def _shared(values: npt.NDArray[Any], side: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Return (n,) bool: does the value occur on both sides?"""
    return np.isin(values, np.intersect1d(values[side], values[~side]))


def _twins(files: Paths, prints: npt.NDArray[np.uint64], side: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return pairs of files of equal content: each that is not of the side with the first that is."""
    rows = np.flatnonzero(_shared(prints, side) & (prints != 0))
    first = {prints[row]: row for row in reversed(rows[side[rows]].tolist())}
    pairs = [(row, first[prints[row]]) for row in rows[~side[rows]].tolist()]
    return [(a, b) for a, b in pairs if record_bytes(files[a]) == record_bytes(files[b])]


def _problem(report: CheckReport, kind: str, found: list[str]) -> None:
    if found:
        report.errors.append(f"{len(found):,} {kind}")
        report.examples[kind] = found[:SHOWN]


def _skipped(report: CheckReport, found: Skipped) -> None:
    if found:
        report.warnings.append(describe_skipped(found))
        report.examples["left out"] = [f"{path}: {reason}" for path, reason in found[:SHOWN]]


def _count(report: CheckReport, parts: Mapping[str, Split], expected: Mapping[str, int | None]) -> None:
    for part, split in parts.items():
        for domain in DOMAINS if split.classes else ():
            records, known = split.of(domain), expected.get(f"{domain}_{part}")
            row = {"part": part, "domain": domain, "classes": len(np.unique(records.labels)), "images": len(records)}
            report.counts.append({**row, "published": known})


def _cell(value: object) -> str:
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else str(value)
