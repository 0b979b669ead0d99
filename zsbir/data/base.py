"""The dataset contract, and the one place where seen and unseen classes are told apart."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from zsbir.data.images import load_image
from zsbir.data.manifest import describe
from zsbir.data.strokes import StrokeStyle
from zsbir.errors import ZsbirError
from zsbir.types import Paths, Records, Split

DEFAULT_SHARE, DEFAULT_FROM = 0.1, 10
"""The share of the seen classes that are held out unless the user says otherwise, and from how many on."""
CHANGED = "the files' contents are not those that the split file was written for: results on them are not comparable"


class Dataset:
    """Sketches and photos of seen and unseen classes.

    A subclass calls `__init__` with everything it found; the three parts are made here.

    Args:
        seen: The training part, with all seen classes.
        unseen: The test part.
        validation: Which seen classes to hold out for model selection: a number (0: none, as the published methods
            train), a share below 1, or their names; None: a tenth of them, where there are at least 10.
        seed: Seed of that choice, and of the images held out.
        notes: See below.
        allow_overlap: Keep classes that are both seen and unseen; the subclass must say so in `notes`.
        hold_out: Share of the images of each training class to keep out of training, or the split of them: they are
            `seen_test`, for the generalised setting and for model selection by classification.
        expected_hash: The manifest's hash where the dataset was opened by a split file; another one gives a warning.
        style: How drawings given as strokes are rasterised.

    Raises:
        ZsbirError: If a class is both seen and unseen (named), or too few classes are left to train on.

    Attributes:
        spec: What `DATASETS.build` recorded.
        notes: What every report from this dataset must say, such as an overlap that was kept as published.
        variant: What the pixels of `open` depend on beside the file, such as a line width; image caches are kept apart.
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
        self._train = subset(seen, ~chosen)
        self._validation = subset(seen, chosen)
        self._test = unseen
        if isinstance(hold_out, Split):
            self._seen_test = hold_out
        else:
            self._train, self._seen_test = _hold_out_images(self._train, hold_out, seed)
        self._manifest_hash: str | None = None
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
    def train(self) -> Split:
        """The seen classes, less those held out for validation."""
        return self._train

    @property
    def validation(self) -> Split:
        """The held-out seen classes; empty if there are none."""
        return self._validation

    @property
    def test(self) -> Split:
        """The unseen classes."""
        return self._test

    @property
    def seen_test(self) -> Split:
        """Images of the training classes that are kept out of training; empty if ``hold_out=0``."""
        return self._seen_test

    @property
    def parts(self) -> dict[str, Split]:
        """All parts by name (train, validation, test, and seen_test if it has images)."""
        parts = {"train": self._train, "validation": self._validation, "test": self._test}
        return parts | ({"seen_test": self._seen_test} if len(self._seen_test.photos) else {})

    def manifest(self) -> dict[str, Any]:
        """Return the classes and files of every part with their SHA-256, as ``zsbir datasets split`` writes them."""
        return describe(self.parts)

    @property
    def manifest_hash(self) -> str:
        """The manifest's SHA-256 in hexadecimal; equal hashes mean equal classes and files, contents included.

        The first time every file is read once, see `zsbir.data.hashes`. A warning says so if the dataset was opened
        by a split file that was written for other contents.
        """
        if self._manifest_hash is None:
            self._manifest_hash = str(self.manifest()["sha256"])
            if self.changed_since_split:
                warnings.warn(f"{CHANGED} (its hash is {str(self._expected_hash)[:12]})", stacklevel=2)
        return self._manifest_hash

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

    def part(records: Records) -> Records:
        return records.where(chosen[records.labels], new_label)

    names = tuple(name for name, wanted in zip(split.classes, chosen, strict=True) if wanted)
    return Split(part(split.sketches), part(split.photos), names)


def held_out_classes(
    classes: tuple[str, ...], validation: int | float | Sequence[str] | None, seed: int
) -> npt.NDArray[np.bool_]:
    """Return (C,) bool, True for the validation classes; see `Dataset` for what `validation` may be."""
    total = len(classes)
    if isinstance(validation, Sequence):
        unknown = sorted(set(validation) - set(classes))
        if unknown:
            raise ZsbirError(f"the validation classes {', '.join(unknown)} are no seen classes")
        chosen = np.isin(classes, list(validation))
    else:
        if validation is None:
            count = max(2, round(total * DEFAULT_SHARE)) if total >= DEFAULT_FROM else 0
        else:
            count = round(total * validation) if isinstance(validation, float) and validation < 1 else int(validation)
        chosen = np.zeros(total, dtype=bool)
        chosen[np.random.default_rng(seed).permutation(total)[: max(count, 0)]] = True
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

    def part(records: Records, number: int) -> tuple[Records, Records]:
        rng = np.random.default_rng([seed, number])
        out = np.zeros(len(records), dtype=bool)
        for label in range(len(train.classes)):
            members = rng.permutation(np.flatnonzero(records.labels == label))
            out[members[: int(len(members) * share)]] = True
        return records.where(~out), records.where(out)

    if not share:
        nothing = np.zeros(0, dtype=np.int64)
        empty = [Records(records.root, Paths(), nothing) for records in (train.sketches, train.photos)]
        return train, Split(empty[0], empty[1], train.classes)
    sketches, photos = part(train.sketches, 0), part(train.photos, 1)
    return Split(sketches[0], photos[0], train.classes), Split(sketches[1], photos[1], train.classes)
