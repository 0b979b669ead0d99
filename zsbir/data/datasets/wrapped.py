"""Images from your own `torch.utils.data.Dataset`s."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from zsbir.data.base import Dataset, Unseen, choose_unseen, subset
from zsbir.data.preprocess import as_image
from zsbir.errors import ZsbirError
from zsbir.types import Domain, Paths, Records, Split


class Items(Protocol):
    """What is needed of a `torch.utils.data.Dataset`: its length, and items (image, label)."""

    def __len__(self) -> int:
        """Return the number of items."""

    def __getitem__(self, index: int) -> Any:
        """Return an image and its label."""


class WrappedDataset(Dataset):
    """Sketches and photos from two objects of `torch.utils.data.Dataset`, to train on, to evaluate and to embed.

    An item is ``(image, label)``. The image is a PIL image, an array (H, W, 3) uint8, or a tensor (3, H, W) in [0, 1];
    the label is a class name or a position in `classes`. Labels are read from the attribute ``targets``, as
    torchvision's datasets have it, and else from all items, once.

    To train, register a class of your own whose arguments are plain values, so that a run can be repeated::

        @zsbir.DATASETS.register("mine")
        class Mine(WrappedDataset):
            def __init__(self, folder: str) -> None:
                super().__init__(ImageFolder(f"{folder}/a"), ImageFolder(f"{folder}/b"), unseen=["cat", "dog"])

    The manifest of such a dataset knows labels but no contents, and decoded images are not cached.

    Args:
        sketches: The sketches.
        photos: The photos.
        unseen: The test classes: names, names in one string with commas, or how many to draw with `seed`.
        classes: The class names, where labels are numbers; None: the attribute ``classes`` of `photos`.
        validation: See `Dataset`.
        seed: Seed of both choices.
        hold_out: See `Dataset`.

    Raises:
        ZsbirError: For a label without a class, a class in one domain only, and as `Dataset`.
    """

    def __init__(
        self,
        sketches: Items,
        photos: Items,
        unseen: Unseen,
        classes: Sequence[str] | None = None,
        validation: int | float | None = None,
        seed: int = 0,
        hold_out: float = 0.0,
    ) -> None:
        self._items: dict[str, Items] = {"sketch": sketches, "photo": photos}
        held: Sequence[str] = classes or getattr(photos, "classes", None) or ()
        labels = {domain: _labels(items, held) for domain, items in self._items.items()}
        names = tuple(held or sorted(set(labels["photo"])))
        for domain, found in labels.items():
            lacking, more = (", ".join(sorted(x)) or "none" for x in (set(names) - set(found), set(found) - set(names)))
            if set(names) != set(found):
                raise ZsbirError(f"the {domain} items must have all classes: they lack {lacking} and add {more}")
        number = {name: i for i, name in enumerate(names)}

        def records(domain: Domain) -> Records:
            paths = Paths(f"{domain}/{i}" for i in range(len(labels[domain])))
            return Records(Path("items"), paths, np.array([number[name] for name in labels[domain]], dtype=np.int64))

        every = Split.by_domain(records, names)
        hidden = choose_unseen("the dataset", names, unseen, seed)
        super().__init__(subset(every, ~hidden), subset(every, hidden), validation, seed, hold_out=hold_out)

    def open(self, record: str) -> Image.Image:
        """Return one image as RGB."""
        domain, number = Path(record).parts[-2:]
        return as_image(self._items[domain][int(number)][0])


def _labels(items: Items, classes: Sequence[str]) -> list[str]:
    """Return the class name of every item."""
    targets = getattr(items, "targets", None)
    given = [items[i][1] for i in range(len(items))] if targets is None else list(targets)
    names = []
    for label in given:
        if isinstance(label, str):
            names.append(label)
        elif 0 <= int(label) < len(classes):
            names.append(classes[int(label)])
        else:
            raise ZsbirError(f"the label {label} has no class name: give classes=[...], it has {len(classes)}")
    return names
