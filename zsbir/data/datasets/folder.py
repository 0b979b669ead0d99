"""Any sketches and photos in class folders, with the unseen classes named, counted or listed by the user."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from zsbir.arguments import Count, Natural, Positive, Ratio, close_matches
from zsbir.data import DATASETS
from zsbir.data.base import Dataset
from zsbir.data.manifest import read_manifest
from zsbir.data.scan import (
    PHOTO_FOLDERS,
    SKETCH_FOLDERS,
    Found,
    Skipped,
    describe_skipped,
    find_domain,
    records_of,
    scan_classes,
)
from zsbir.data.strokes import StrokeStyle
from zsbir.errors import ZsbirError
from zsbir.names import canonical
from zsbir.types import Domain, Paths, Split

Unseen = str | Sequence[str] | int
"""The test classes: names, names in one string with commas, or how many to draw."""


@DATASETS.register("folder")
class FolderDataset(Dataset):
    """Your own images, in folders ROOT/sketch/CLASS and ROOT/photo/CLASS.

    The domain folders may also be called sketches, drawings, photos, images, pictures, real. The sketch of a class
    may be a QuickDraw file ``sketch/CLASS.ndjson``, and SVG files count as images. Spellings such as
    ``hot-air_balloon`` and ``hot_air_balloon`` in the two domains are one class (the photos' name is used).

    Args:
        root: The folder that holds both domain folders.
        unseen: The test classes: names, names in one string with commas, or how many to draw with `seed`. If it is
            left out, ``test_labels.txt`` (one class a line) in `root` or beside it is used.
        validation: How many seen classes to hold out for model selection, see `Dataset`.
        seed: Seed of both choices.
        split: A split file of ``zsbir datasets split``, which says all that `unseen`, `validation`, `seed` and
            `hold_out` say: leave them out.
        hold_out: Share of each training class's images to keep out of training (`seen_test`).
        stroke_size: Side in pixels at which SVG and QuickDraw drawings are rasterised.
        line_width: Width of their lines in pixels at that size (SVG: only where given, their own otherwise).

    Raises:
        ZsbirError: For a wrong root, a missing domain folder, an empty class folder, a class in one domain only, an
            unseen class that does not exist, no seen class left.

    Attributes:
        skipped: Files that were left out, each with the reason.
    """

    def __init__(
        self,
        root: str | Path,
        unseen: Unseen = (),
        validation: int | float | None = None,
        seed: Natural = 0,
        split: str | Path | None = None,
        hold_out: Ratio = 0.0,
        stroke_size: Count = 256,
        line_width: Positive | None = None,
    ) -> None:
        root = existing_folder(root)
        style = StrokeStyle(stroke_size, line_width)
        self.skipped: Skipped = []
        if split is not None:
            given = {"unseen": unseen, "validation": validation, "seed": seed, "hold_out": hold_out}
            super().__init__(**read_manifest(split, root, **given), style=style)
            return
        sketches, photos = find_pair(root)
        self.skipped = sketches.skipped + photos.skipped
        names = paired_classes(root, sketches, photos)
        if unseen in ((), [], ""):
            unseen = label_file(root, "test_labels.txt") or ()
        chosen = choose_unseen(root, names, unseen, seed)
        if len(chosen) >= len(names):
            raise ZsbirError(f"all {len(names)} classes of {root} are unseen, none is left to train on: name fewer")
        seen = tuple(name for name in names if name not in chosen)
        seen_split, unseen_split = (make_split(root, sketches, photos, classes) for classes in (seen, chosen))
        super().__init__(seen_split, unseen_split, validation, seed, hold_out=hold_out, style=style)


def existing_folder(root: str | Path) -> Path:
    """Return `root` as a path.

    Raises:
        ZsbirError: If it is no folder.
    """
    path = Path(root).expanduser()
    if not os.path.isdir(path):  # noqa: PTH112 (a name that no file can have is no folder; Path raises)
        what = "not a folder" if os.path.exists(path) else "missing"  # noqa: PTH110
        raise ZsbirError(f"the dataset root {path} is {what}: check the path")
    return path


def find_pair(root: Path) -> tuple[Found, Found]:
    """Return the class folders of both domains under `root`.

    Raises:
        ZsbirError: If a domain folder is missing or holds no class folder.
    """
    found: list[Found] = []
    domains: tuple[tuple[Domain, tuple[str, ...]], ...] = (("sketch", SKETCH_FOLDERS), ("photo", PHOTO_FOLDERS))
    for domain, names in domains:
        folder = find_domain(root, names)
        if folder is None:
            held = ", ".join(sorted(entry.name for entry in os.scandir(root) if entry.is_dir())[:8]) or "no folder"
            raise ZsbirError(f"{root} has no {domain} folder (any of {', '.join(names)}); it holds {held}")
        classes = scan_classes(root, folder)
        if not classes.classes:
            raise ZsbirError(f"{root / folder} holds no class folder: it must be {folder}/CLASS/image")
        found.append(classes)
    return found[0], found[1]


def paired_classes(root: Path, sketches: Found, photos: Found) -> tuple[str, ...]:
    """Return the classes of both domains, by the photos' names, sorted; `sketches` is renamed to match.

    Raises:
        ZsbirError: If a class folder is empty, or a class is in one domain only.
    """
    for domain, found in (("sketch", sketches), ("photo", photos)):
        empty = [name for name, paths in found.classes.items() if not len(paths)]
        if empty:
            extra = f"; {describe_skipped(found.skipped)}" if found.skipped else ""
            raise ZsbirError(f"no image in the {domain} folder of {', '.join(empty)} under {root}{extra}")
    own = {canonical(name): name for name in photos.classes}
    merged: dict[str, list[Paths]] = {}
    for name, paths in sketches.classes.items():
        merged.setdefault(own.get(canonical(name), name), []).append(paths)
    sketches.classes = {name: Paths.join(parts) for name, parts in merged.items()}
    for domain, there, missing in (("sketch", sketches, photos), ("photo", photos, sketches)):
        alone = sorted(set(there.classes) - set(missing.classes))
        if alone:
            raise ZsbirError(
                f"{len(alone)} classes under {root} have only {domain} images: {', '.join(alone[:8])}; add the other "
                "domain's folder of the same name, or move these away"
            )
    return tuple(sorted(photos.classes))


def choose_unseen(where: object, names: tuple[str, ...], unseen: Unseen, seed: int) -> tuple[str, ...]:
    """Return the unseen classes, in the order of `names`.

    Raises:
        ZsbirError: If a class does not exist (with the close matches), or none is named at all.
    """
    if isinstance(unseen, str):
        unseen = int(unseen) if unseen.strip().isdigit() else [part.strip() for part in unseen.split(",")]
    if isinstance(unseen, int):
        if not 0 < unseen < len(names):
            raise ZsbirError(f"unseen={unseen}: {where} has {len(names)} classes, so give 1 to {len(names) - 1}")
        drawn = np.random.default_rng(seed).permutation(len(names))[:unseen]
        return tuple(names[i] for i in sorted(drawn.tolist()))
    wanted = [name for name in unseen if name]
    if not wanted:
        raise ZsbirError(f"say which classes of {where} are unseen: names, or how many. Classes: {', '.join(names)}")
    known = {canonical(name): name for name in names}
    for name in wanted:
        if canonical(name) not in known:
            raise ZsbirError(f"{where} has no class {name!r} to leave unseen. {close_matches(name, list(names))}")
    chosen = {known[canonical(name)] for name in wanted}
    return tuple(name for name in names if name in chosen)


def label_file(root: Path, name: str) -> list[str] | None:
    """Return the classes in a label file (one a line) in `root` or one level up, or None where there is none."""
    for path in (root / name, root.resolve().parent / name):
        if path.is_file():
            text = path.read_text(encoding="utf-8-sig", errors="replace")
            return [line.strip() for line in text.splitlines() if line.strip()]
    return None


def make_split(root: Path, sketches: Found, photos: Found, classes: tuple[str, ...]) -> Split:
    """Return the split of `classes`."""
    return Split(records_of(root, sketches.classes, classes), records_of(root, photos.classes, classes), classes)
