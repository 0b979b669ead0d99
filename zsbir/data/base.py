"""The base class of datasets, and the only place that separates seen and unseen classes."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cached_property
from itertools import compress
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from zsbir.arguments import close_matches
from zsbir.data.images import load_image
from zsbir.data.manifest import describe
from zsbir.data.strokes import StrokeStyle
from zsbir.errors import ZsbirError
from zsbir.names import canonical
from zsbir.types import DOMAINS, Split

Unseen = str | Sequence[str] | int
"""The test classes: names, names in one string with commas, or how many to draw."""

CHANGED = "the files' contents are not those that the split file was written for: results on them are not comparable"


class Dataset:
    """Sketches and photos of seen and unseen classes.

    A subclass calls `__init__` with everything it found; the parts are made here.

    Args:
        seen: The training part, with all seen classes.
        unseen: The test part.
        validation: Which seen classes to hold out for model selection: a number (0: none, as the published methods
            train), a share below 1, or their names; None: a tenth of them, where there are at least 10.
        seed: Seed of that choice, and of the images held out.
        notes: See below.
        allow_overlap: Keep classes that are both seen and unseen; the subclass must say so in `notes`.
        hold_out: Share of each training class's images to keep out of training, or the split of these images: they
            become `seen_test`, for the generalised setting and for model selection by classification.
        expected_hash: The manifest's hash in the split file that the dataset was opened with; a warning says if the
            files have another one.
        style: How drawings given as strokes are rasterised.

    Raises:
        ZsbirError: If a class is both seen and unseen (named), or too few classes are left to train on.

    Attributes:
        train: The seen classes, less those held out for validation.
        validation: The held-out seen classes; empty if there are none.
        test: The unseen classes.
        seen_test: Images of the training classes that are kept out of training; empty if ``hold_out=0``.
        spec: What `DATASETS.build` recorded.
        notes: What every report from this dataset must say, such as an overlap that was kept as published.
        variant: What the pixels of `open` depend on besides the file, such as a line width; caches keep them apart.
    """

    spec: dict[str, Any]
    variant: str = ""

    def __init__(
        self,
        seen: Split,
        unseen: Split,
        validation: int | float | Sequence[str] | None = 0,
        seed: int = 0,
        notes: tuple[str, ...] = (),
        allow_overlap: bool = False,
        hold_out: float | Split = 0.0,
        expected_hash: str | None = None,
        style: StrokeStyle | None = None,
    ) -> None:
        overlap = sorted(set(seen.classes) & set(unseen.classes))
        if overlap and not allow_overlap:
            raise ZsbirError(f"{len(overlap)} classes are both seen and unseen: {', '.join(overlap)}")
        self.notes = notes
        chosen = held_out_classes(seen.classes, validation, seed)
        self.train, self.validation, self.test = subset(seen, ~chosen), subset(seen, chosen), unseen
        if isinstance(hold_out, Split):
            self.seen_test = hold_out
        else:
            self.train, self.seen_test = _hold_out_images(self.train, hold_out, seed)
        self._expected_hash = expected_hash
        self._style = style or StrokeStyle()
        if self._style != StrokeStyle():
            self.variant = repr(self._style)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {', '.join(self._counts())}>"

    def _repr_html_(self) -> str:
        return f"<p>{type(self).__name__}</p><ul>{''.join(f'<li>{line}</li>' for line in self._counts())}</ul>"

    def _counts(self) -> list[str]:
        return [
            f"{part}: {len(split.classes)} classes with {len(split.sketches):,} sketches, {len(split.photos):,} photos"
            for part, split in self.parts.items()
        ]

    @property
    def parts(self) -> dict[str, Split]:
        """All parts by name (train, validation, test, and seen_test if it has images)."""
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        return parts | ({"seen_test": self.seen_test} if len(self.seen_test.photos) else {})

    def manifest(self) -> dict[str, Any]:
        """Return the classes and files of every part with their SHA-256, as ``zsbir datasets split`` writes them."""
        return describe(self.parts)

    @cached_property
    def manifest_hash(self) -> str:
        """The manifest's SHA-256 in hexadecimal; equal hashes mean equal classes and files, contents included.

        The first time every file is read once, see `zsbir.data.content`. A warning says so if the dataset was opened
        by a split file that was written for other contents.
        """
        found = str(self.manifest()["sha256"])
        if self._expected_hash not in (None, found):
            warnings.warn(f"{CHANGED} (its hash is {str(self._expected_hash)[:12]})", stacklevel=3)
        return found

    @property
    def changed_since_split(self) -> bool:
        """Whether the dataset was opened by a split file that was written for other contents of the same files."""
        return self._expected_hash is not None and self._expected_hash != self.manifest_hash

    def open(self, record: str) -> Image.Image:
        """Return one image by its full path (``Records.file``) as RGB; subclasses that make images override it."""
        return load_image(record, self._style)

    def object_mask(self, record: str) -> npt.NDArray[np.bool_] | None:
        """Return (H, W) bool, True on the object of a photo, or None where the dataset does not know it."""
        return None


def subset(split: Split, chosen: npt.NDArray[np.bool_]) -> Split:
    """Return the classes of `split` where `chosen` (C,) is true, renumbered from 0 in the same order."""
    new_label = np.where(chosen, np.cumsum(chosen) - 1, -1).astype(np.int64)
    classes = tuple(compress(split.classes, chosen))
    return Split.by_domain(lambda d: split.of(d).where(chosen[split.of(d).labels], new_label), classes)


def choose_unseen(where: object, names: tuple[str, ...], unseen: Unseen, seed: int) -> npt.NDArray[np.bool_]:
    """Return (C,) bool, True for the unseen classes.

    Args:
        where: Where the classes are, for messages.
        names: All classes.
        unseen: Which of them, or how many.
        seed: Seed of the choice.

    Raises:
        ZsbirError: If a class does not exist (with the close matches), none is named, or none is left to train on.
    """
    if isinstance(unseen, str):
        unseen = int(unseen) if unseen.strip().isdigit() else [part.strip() for part in unseen.split(",")]
    if isinstance(unseen, int):
        if not 0 < unseen < len(names):
            raise ZsbirError(f"unseen={unseen}: {where} has {len(names)} classes, so give 1 to {len(names) - 1}")
        return _drawn(unseen, len(names), seed)
    wanted = {canonical(name): name for name in unseen if name}
    if not wanted:
        raise ZsbirError(f"say which classes of {where} are unseen: names, or how many. Classes: {', '.join(names)}")
    known = {canonical(name) for name in names}
    for plain, name in wanted.items():
        if plain not in known:
            raise ZsbirError(f"{where} has no class {name!r} to leave unseen. {close_matches(name, list(names))}")
    hidden = np.array([canonical(name) in wanted for name in names])
    if hidden.all():
        raise ZsbirError(f"all {len(names)} classes of {where} are unseen, none is left to train on: name fewer")
    return hidden


def _drawn(count: int, total: int, seed: int) -> npt.NDArray[np.bool_]:
    return np.isin(np.arange(total), np.random.default_rng(seed).permutation(total)[:count])


def held_out_classes(
    classes: tuple[str, ...], validation: int | float | Sequence[str] | None, seed: int
) -> npt.NDArray[np.bool_]:
    """Return (C,) bool, True for the validation classes; see `Dataset` for what `validation` may be."""
    total = len(classes)
    if isinstance(validation, Sequence):
        unknown = sorted(set(validation) - set(classes))
        if unknown:
            raise ZsbirError(f"the validation classes {', '.join(unknown)} are not seen classes")
        chosen = np.isin(classes, list(validation))
    else:
        if validation is None:
            count = max(2, round(total * 0.1)) if total >= 10 else 0
        else:
            count = round(total * validation) if isinstance(validation, float) and validation < 1 else int(validation)
        chosen = _drawn(max(count, 0), total, seed)
    held = int(chosen.sum())
    if held == 1 or (held and total - held < 2) or (isinstance(validation, (int, float)) and validation < 0):
        raise ZsbirError(
            f"validation={validation} holds out {held} of {total} seen classes: hold out at least 2 (every photo is "
            "right for a single class) and leave at least 2 to train on, or give 0 to hold out none"
        )
    return chosen


def _hold_out_images(train: Split, share: float, seed: int) -> tuple[Split, Split]:
    """Return the split without a share of each class's images, and the split of these."""
    if not 0 <= share < 1:
        raise ZsbirError(f"hold_out={share} must be a share of each class's images, from 0 to below 1")
    out = {}
    for number, domain in enumerate(DOMAINS):
        rng = np.random.default_rng([seed, number])
        labels = train.of(domain).labels
        out[domain] = np.zeros(len(labels), dtype=bool)
        for label in range(len(train.classes)) if share else ():
            members = rng.permutation(np.flatnonzero(labels == label))
            out[domain][members[: int(len(members) * share)]] = True
    held = Split.by_domain(lambda domain: train.of(domain).where(out[domain]), train.classes)
    kept = Split.by_domain(lambda domain: train.of(domain).where(~out[domain]), train.classes) if share else train
    return kept, held
