"""The dataset contract, and the one place where seen and unseen classes are told apart."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from zsbir.errors import ZsbirError
from zsbir.types import Paths, Records, Split

CHANGED = "the files' contents are not those that the split file was written for: results on them are not comparable"


class Dataset:
    """Sketches and photos of seen and unseen classes.

    A subclass calls `__init__` with everything it found; the three parts are made here.

    Args:
        seen: The training part, with all seen classes.
        unseen: The test part.
        validation: Which seen classes to hold out for model selection: a number, a share below 1, or their names.
        seed: Seed of that choice, and of the images held out.
        notes: See below.
        allow_overlap: Keep classes that are both seen and unseen; the subclass must say so in `notes`.
        hold_out: Share of the images of each training class to keep out of training, or the split of them: they are
            `seen_test`, for the generalised setting and for model selection by classification.
        expected_hash: The manifest's hash where the dataset was opened by a split file; another one gives a warning.

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
        validation: int | float | Sequence[str] = 0,
        seed: int = 0,
        notes: tuple[str, ...] = (),
        allow_overlap: bool = False,
        hold_out: float | Split = 0.0,
        expected_hash: str | None = None,
    ) -> None:
        overlap = sorted(set(seen.classes) & set(unseen.classes))
        if overlap and not allow_overlap:
            raise ZsbirError(f"{len(overlap)} classes are both seen and unseen: {', '.join(overlap)}")
        self.notes = notes
        chosen = _held_out_classes(seen.classes, validation, seed)
        self._train = subset(seen, ~chosen)
        self._validation = subset(seen, chosen)
        self._test = unseen
        if isinstance(hold_out, Split):
            self._seen_test = hold_out
        else:
            self._train, self._seen_test = _hold_out_images(self._train, hold_out, seed)
        self._manifest_hash: str | None = None
        self._expected_hash = expected_hash

    @property
    def train(self) -> Split:
        """The seen classes, less those held out for validation."""
        return self._train

    @property
    def validation(self) -> Split:
        """The held-out seen classes; empty if ``validation=0``."""
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
        from zsbir.data.manifest import describe

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
        from zsbir.data.images import load_image

        return load_image(record)

    def object_mask(self, record: str) -> npt.NDArray[np.bool_] | None:
        """Return (H, W) bool, True on the object of a photo, or None where the dataset does not know it."""
        return None


def subset(split: Split, keep: npt.NDArray[np.bool_]) -> Split:
    """Return the classes of `split` where `keep` (C,) is true, renumbered from 0 in the same order."""
    new_label = np.where(keep, np.cumsum(keep) - 1, -1).astype(np.int64)

    def part(records: Records) -> Records:
        return records.where(keep[records.labels], new_label)

    names = tuple(name for name, kept in zip(split.classes, keep, strict=True) if kept)
    return Split(part(split.sketches), part(split.photos), names)


def _held_out_classes(
    classes: tuple[str, ...], validation: int | float | Sequence[str], seed: int
) -> npt.NDArray[np.bool_]:
    """Return (C,) bool, True for the validation classes."""
    if isinstance(validation, Sequence):
        unknown = sorted(set(validation) - set(classes))
        if unknown:
            raise ZsbirError(f"the validation classes {', '.join(unknown)} are no seen classes")
        return np.array([name in set(validation) for name in classes], dtype=bool)
    total = len(classes)
    held = round(total * validation) if isinstance(validation, float) and validation < 1 else int(validation)
    if held < 0 or (held and total - held < 2):
        raise ZsbirError(
            f"validation={validation} holds out {held} of {total} seen classes; 2 must be left to train on"
        )
    chosen = np.zeros(total, dtype=bool)
    chosen[np.random.default_rng(seed).permutation(total)[:held]] = True
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
