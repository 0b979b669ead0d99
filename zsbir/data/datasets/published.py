"""The published benchmark splits, read from their list files or from plain class folders.

Where the images of a root may lie, each also as ``sketches/CLASS`` and ``photos/CLASS``, and ``zeroshot*/`` with lists:

- Sketchy (Sangkloy et al., 2016) with the extended photos (Liu et al., 2017):
  ``256x256/sketch/tx_000000000000[_ready]/CLASS``, ``256x256/photo/tx_000000000000[_ready]/CLASS`` and
  ``EXTEND_image_sketchy[_ready]/CLASS``.
- TU-Berlin (Eitz et al., 2012) with the extended photos: ``png[_ready]/CLASS``, ``ImageResized[_ready]/CLASS``.
- QuickDraw-Extended (Dey et al., 2019): ``sketches/CLASS`` or ``sketches/CLASS.ndjson`` (as Google gives them),
  ``images/CLASS``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from itertools import compress
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from zsbir.arguments import Count, Natural, Positive, Ratio
from zsbir.data import DATASETS
from zsbir.data.base import Dataset, subset
from zsbir.data.datasets._lists import find_lists, read_part
from zsbir.data.manifest import read_manifest
from zsbir.data.scan import Found, Skipped, existing_folder, find_domain, label_file, scan_classes
from zsbir.data.strokes import StrokeStyle
from zsbir.errors import ZsbirError
from zsbir.names import canonical, some
from zsbir.types import DOMAINS, Domain, Split

Source = Literal["auto", "lists", "folders"]
"""What a benchmark is read from: its list files where the root has them all (auto), one or the other."""


@dataclass
class Reading:
    """What was found of a benchmark.

    Attributes:
        seen: The training part, with all published seen classes.
        unseen: The test part.
        source: ``"lists <folder>"`` or ``"folders"``.
        problems: What a report must say: disagreements, classes left out.
        missing: Class folders that are not there, or empty, by part: ``"photo_test: bat"``.
        extra: Class folders that belong to no class of the benchmark.
        skipped: Files that were left out, each with the reason.
    """

    seen: Split
    unseen: Split
    source: str
    problems: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)
    skipped: Skipped = field(default_factory=list)


class PublishedDataset(Dataset):
    """One of the published benchmarks; a subclass says which.

    Args:
        root: The folder of the dataset.
        validation: How many seen classes to hold out for model selection: a number, or a share below 1; 0: none, so
            that all published classes are trained on; None: a tenth of them.
        seed: Seed of that choice.
        hold_out: Share of each training class's images to keep out of training (`seen_test`).
        source: ``"lists"``: the published list files; ``"folders"``: all files of the class folders; ``"auto"``: the
            lists where the root has them all.
        split: A split file of ``zsbir datasets split``, instead of all these.
        stroke_size: Side in pixels at which SVG and QuickDraw drawings are rasterised.
        line_width: Width of their lines in pixels.
        as_published: Keep training classes that are test classes too; every report then says so. Only
            `sketchy-ambiguity` has any, and by default they are left out of training.

    Raises:
        ZsbirError: If the root has neither lists nor folders, a class has no images, or `as_published` is given where
            no class is both.

    Attributes:
        benchmark: Whose class lists are used.
        reading: What was found, None with a split file.
    """

    benchmark: ClassVar[str]

    def __init__(
        self,
        root: str | Path,
        validation: int | float | None = None,
        seed: Natural = 0,
        hold_out: Ratio = 0.0,
        source: Source = "auto",
        split: str | Path | None = None,
        stroke_size: Count = 256,
        line_width: Positive | None = None,
        as_published: bool = False,
    ) -> None:
        style = StrokeStyle(stroke_size, line_width)
        self.reading: Reading | None = None
        facts = published(self.benchmark)
        if as_published and set(facts["seen"]).isdisjoint(facts["unseen"]):
            raise ZsbirError(f"no class of {self.benchmark} is both seen and unseen: leave out as_published")
        if split is not None:
            given = {"validation": validation, "seed": seed, "hold_out": hold_out, "as_published": as_published}
            super().__init__(**read_manifest(split, existing_folder(root), **given), style=style)
            return
        self.reading = read_published(self.benchmark, root, source)
        if self.reading.missing:
            raise ZsbirError(
                f"{self.benchmark} is incomplete under {root}: no images for {some(self.reading.missing)}; see "
                f"`zsbir datasets check {self.benchmark} --root {root}`"
            )
        seen, unseen, notes = self.reading.seen, self.reading.unseen, list(self.reading.problems)
        overlap = np.isin(seen.classes, unseen.classes)
        if overlap.any() and as_published:
            notes.insert(0, f"not zero-shot: {overlap.sum()} test classes seen")
        elif overlap.any():
            seen = subset(seen, ~overlap)
            notes.append(f"strict: {overlap.sum()} published training classes are test classes and were left out")
        super().__init__(seen, unseen, validation, seed, tuple(notes), as_published, hold_out, style=style)


@DATASETS.register("sketchy-25")
class Sketchy25(PublishedDataset):
    """Sketchy, 25 random unseen classes (SAKE's split; zeroshot1): mAP@all, P@100."""

    benchmark = "sketchy-25"


@DATASETS.register("sketchy-21")
class Sketchy21(PublishedDataset):
    """Sketchy, 21 unseen classes absent from ImageNet-1k (zeroshot0 or zeroshot2): mAP@200, P@200."""

    benchmark = "sketchy-21"


@DATASETS.register("sketchy-ambiguity")
class SketchyAmbiguity(PublishedDataset):
    """PuXIM's ambiguity set, 934 photos of 50 classes; tested on the unseen classes of sketchy-25.

    Nine of the 50 classes are also test classes, see `as_published` of `PublishedDataset`.
    """

    benchmark = "sketchy-ambiguity"


@DATASETS.register("tuberlin-30")
class TUBerlin30(PublishedDataset):
    """TU-Berlin, 30 unseen classes of 250 with at least 400 photos each: mAP@all, P@100."""

    benchmark = "tuberlin-30"


@DATASETS.register("quickdraw-30")
class QuickDraw30(PublishedDataset):
    """QuickDraw-Extended, 30 unseen classes of 110: mAP@all, P@200."""

    benchmark = "quickdraw-30"


@cache
def published(name: str) -> Mapping[str, Any]:
    """Return the facts on a benchmark: seen and unseen classes in published id order, list files, folders, counts.

    Raises:
        ZsbirError: If there is no such benchmark.
    """
    path = files("zsbir.data") / "splits" / f"{name}.json"
    if not path.is_file():
        raise ZsbirError(f"there is no published split {name!r}; known: {', '.join(published_names())}")
    return dict(json.loads(path.read_text(encoding="utf-8")))


def published_names() -> list[str]:
    """Return the names of all published benchmarks."""
    held = (files("zsbir.data") / "splits").iterdir()
    return sorted(path.name.removesuffix(".json") for path in held if path.name.endswith(".json"))


def read_published(name: str, root: str | Path, source: Source = "auto") -> Reading:
    """Find a benchmark's files under `root`, without judging whether they are complete.

    Raises:
        ZsbirError: If the root is wrong, or holds neither lists nor class folders.
    """
    facts, where = published(name), existing_folder(root)
    lists = find_lists(where, facts) if source != "folders" else None
    if lists is None and source == "lists":
        wanted = ", ".join(item["file"] for item in facts["lists"].values())
        raise ZsbirError(f"{where} has no folder zeroshot* with the lists of {name} ({wanted}): use source='folders'")
    reading = _from_lists(where, facts, lists) if lists is not None else _from_folders(where, facts)
    for part, file in (("seen", "train_labels.txt"), ("unseen", "test_labels.txt")):
        named = label_file(where, file)
        if named is not None and set(map(canonical, named)) != set(map(canonical, facts[part])):
            reading.problems.append(f"{file} does not name the {part} classes of {name}; it was not followed")
    return reading


def _from_lists(root: Path, facts: Mapping[str, Any], lists: Mapping[str, Path]) -> Reading:
    sides = {part: facts["seen" if part.endswith("train") else "unseen"] for part in lists}
    parts = {part: read_part(root, path, sides[part]) for part, path in lists.items()}
    seen, unseen = (
        Split(parts[f"sketch_{part}"].records, parts[f"photo_{part}"].records, tuple(facts[side]))
        for part, side in (("train", "seen"), ("test", "unseen"))
    )
    reading = Reading(seen, unseen, f"lists {lists['photo_test'].parent.name}")
    for part, found in parts.items():
        reading.problems += found.problems
        lacking = found.lacking
        if part == "sketch_train" and "train_folders" in facts:
            # PuXIM's sketch list has none of the classes that are also test classes: that is how it was published.
            lacking = [name for name in lacking if name not in facts["unseen"]]
        reading.missing += [f"{part}: {name}" for name in lacking]
    return reading


def _from_folders(root: Path, facts: Mapping[str, Any]) -> Reading:
    test = {domain: _find_classes(root, facts, domain, facts["folders"][domain]) for domain in DOMAINS}
    train = test
    if "train_folders" in facts:
        train = {**test, "photo": _find_classes(root, facts, "photo", facts["train_folders"]["photo"])}
    reading = Reading(
        Split.by_domain(lambda domain: train[domain].records(root, facts["seen"]), tuple(facts["seen"])),
        Split.by_domain(lambda domain: test[domain].records(root, facts["unseen"]), tuple(facts["unseen"])),
        "folders",
        skipped=list(dict.fromkeys(file for found in (*train.values(), *test.values()) for file in found.skipped)),
    )
    for part, split in (("train", reading.seen), ("test", reading.unseen)):
        for domain in DOMAINS:
            empty = np.bincount(split.of(domain).labels, minlength=len(split.classes)) == 0
            reading.missing += [f"{domain}_{part}: {name}" for name in compress(split.classes, empty)]
    if "train_folders" not in facts:
        known = {*facts["seen"], *facts["unseen"]}
        reading.extra = sorted({name for found in test.values() for name in found.classes} - known)
    return reading


def _find_classes(root: Path, facts: Mapping[str, Any], domain: Domain, groups: Sequence[Sequence[str]]) -> Found:
    """Read the class folders of all groups (of each the first that exists), under the published class names."""
    held = [next((name for name in group if (root / name).is_dir()), None) for group in groups]
    folders = [name for name in held if name is not None]
    if not folders:
        other = find_domain(root, domain)
        if other is None:
            wanted = " or ".join(name for group in groups for name in group)
            raise ZsbirError(
                f"{root} has no {domain} folder of {facts['name']}: it must hold {wanted}, or the published lists "
                "(zeroshot*/)"
            )
        folders = [other]
    spelling = {canonical(name): name for name in (*facts["seen"], *facts["unseen"])} | facts.get("aliases", {})
    return scan_classes(root, folders, spelling)
