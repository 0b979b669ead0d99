"""The dataset contract, and the one place where seen and unseen classes are told apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from zsbir.errors import ZsbirError
from zsbir.types import Records, Split


class Dataset:
    """Sketches and photos of seen and unseen classes.

    A subclass calls `__init__` with everything it found; the three parts are made here.

    Args:
        seen: The training part, with all seen classes.
        unseen: The test part.
        validation: How many seen classes to hold out for model selection: a number, or a share below 1.
        seed: Seed of that choice.

    Raises:
        ZsbirError: If a class is both seen and unseen (named), or too few classes are left to train on.

    Attributes:
        spec: What `DATASETS.build` recorded.
        notes: What every report from this dataset must say, such as an overlap that was kept as published.
    """

    spec: dict[str, Any]

    def __init__(
        self,
        seen: Split,
        unseen: Split,
        validation: int | float = 0,
        seed: int = 0,
        notes: tuple[str, ...] = (),
        allow_overlap: bool = False,
    ) -> None:
        overlap = sorted(set(seen.classes) & set(unseen.classes))
        if overlap and not allow_overlap:
            raise ZsbirError(f"{len(overlap)} classes are both seen and unseen: {', '.join(overlap)}")
        self.notes = notes
        total = len(seen.classes)
        held = round(total * validation) if isinstance(validation, float) and validation < 1 else int(validation)
        if held < 0 or (held and total - held < 2):
            raise ZsbirError(
                f"validation={validation} holds out {held} of {total} seen classes; 2 must be left to train on"
            )
        chosen = np.zeros(total, dtype=bool)
        chosen[np.random.default_rng(seed).permutation(total)[:held]] = True
        self._seen = seen
        self._train = subset(seen, ~chosen)
        self._validation = subset(seen, chosen)
        self._test = unseen

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
