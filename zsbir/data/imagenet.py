"""Find the unseen classes that ImageNet-1k contains, and that a network pretrained on it has therefore seen."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from zsbir.names import canonical, some


@dataclass(frozen=True)
class ImageNetOverlap:
    """Unseen classes by their relation to the 1000 ImageNet classes (WordNet 3.0 noun senses).

    Attributes:
        same: The class is an ImageNet class.
        narrower: ImageNet has kinds of it (dog breeds for ``dog``).
        broader: It is a kind of an ImageNet class.
        unknown: Not in zsbir's table of benchmark classes, or not in WordNet.
        total: How many classes were asked for.
    """

    same: tuple[str, ...]
    narrower: tuple[str, ...]
    broader: tuple[str, ...]
    unknown: tuple[str, ...]
    total: int

    @property
    def taught(self) -> int:
        """How many classes ImageNet-1k has in any of the three ways."""
        return len(self.same) + len(self.narrower) + len(self.broader)

    def sentence(self) -> str:
        """Return the line that a report prints.

        >>> imagenet_overlap(["banana", "door", "cow"]).sentence()
        'ImageNet-1k has 2 of 3 unseen classes: 1 as such (banana), 1 by kinds of it (door)'
        """
        if not self.taught:
            text = f"ImageNet-1k has none of the {self.total} unseen classes"
        else:
            named = (("as such", self.same), ("by kinds of it", self.narrower), ("by a wider class", self.broader))
            shown = ", ".join(f"{len(names)} {how} ({', '.join(names)})" for how, names in named if names)
            text = f"ImageNet-1k has {self.taught} of {self.total} unseen classes: {shown}"
        return text + (f"; {len(self.unknown)} not in the table ({some(self.unknown, 5)})" if self.unknown else "")


def imagenet_overlap(classes: Iterable[str]) -> ImageNetOverlap:
    """Return which of `classes` are ImageNet-1k classes, for backbones pretrained on it."""
    names = list(classes)
    relations = [_relations().get(canonical(name), "unknown") for name in names]
    by = {
        relation: tuple(name for name, found in zip(names, relations, strict=True) if found == relation)
        for relation in ("same", "narrower", "broader", "unknown")
    }
    return ImageNetOverlap(**by, total=len(names))


@cache
def _relations() -> dict[str, str]:
    """Return the relation of each benchmark class, by its canonical name."""
    text = (files("zsbir.data") / "imagenet1k.json").read_text(encoding="utf-8")
    return {name: relation for name, (_, relation, _) in json.loads(text).items()}
