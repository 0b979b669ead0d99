"""The few records that travel between the parts, with their shapes.

``B`` is the batch size, ``N = h * w`` the number of patches, ``D`` the embedding width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
import numpy.typing as npt

from zsbir.errors import ZsbirError

if TYPE_CHECKING:
    from torch import Tensor

Domain = Literal["sketch", "photo"]
"""Which of the two kinds of image: a drawing or a photograph."""
DOMAINS: tuple[Domain, ...] = ("sketch", "photo")

Labels = npt.NDArray[np.int64]


class Paths(Sequence[str]):
    """Many strings in one buffer: a list of 150,000 paths costs its characters plus 8 bytes each.

    Args:
        items: The strings, in order.

    >>> paths = Paths(["a/1.png", "b/2.png"])
    >>> paths[1], len(paths), list(paths.take([1, 1]))
    ('b/2.png', 2, ['b/2.png', 'b/2.png'])
    """

    __slots__ = ("_ends", "_text")

    def __init__(self, items: Iterable[str] = ()) -> None:
        chunks: list[bytes] = []
        ends = [0]
        total = 0
        for item in items:
            chunk = item.encode("utf-8", "surrogateescape")
            total += len(chunk)
            chunks.append(chunk)
            ends.append(total)
        self._text = b"".join(chunks)
        self._ends = np.array(ends, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Paths: ...
    def __getitem__(self, index: int | slice) -> str | Paths:
        if isinstance(index, slice):
            return self.take(range(*index.indices(len(self))))
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index = int(index) % len(self)
        return self._text[self._ends[index] : self._ends[index + 1]].decode("utf-8", "surrogateescape")

    def take(self, indices: Iterable[int]) -> Paths:
        """Return the strings at `indices`, in that order."""
        text, ends = self._text, self._ends
        order = indices if isinstance(indices, np.ndarray) else np.fromiter(indices, dtype=np.int64)
        order = np.where(order < 0, order + len(self), order)
        if len(order) and not 0 <= order.min() <= order.max() < len(self):
            raise IndexError(f"positions outside the {len(self)} strings")
        starts, stops = ends[order].tolist(), ends[order + 1].tolist()
        taken = b"".join([text[start:stop] for start, stop in zip(starts, stops, strict=True)])
        return Paths._of(taken, np.concatenate([[0], np.cumsum(ends[order + 1] - ends[order])]).astype(np.int64))

    @classmethod
    def join(cls, parts: Iterable[Paths]) -> Paths:
        """Return the strings of all `parts`, one part after the other."""
        held = list(parts)
        sizes = [np.diff(part._ends) for part in held]
        ends = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(np.concatenate(sizes))] if held else [[0]])
        return cls._of(b"".join(part._text for part in held), ends.astype(np.int64))

    @classmethod
    def _of(cls, text: bytes, ends: npt.NDArray[np.int64]) -> Paths:
        paths = cls()
        paths._text, paths._ends = text, ends
        return paths

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Paths):
            return self._text == other._text and np.array_equal(self._ends, other._ends)
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Paths({len(self)} items)"


@dataclass(frozen=True, eq=False)
class Records:
    """Image files with their classes.

    Attributes:
        root: The folder that `paths` are relative to.
        paths: ``n`` file names with forward slashes. ``name#17`` is the 17th drawing of a file of many.
        labels: (n,) int64, positions in the split's `classes`.
    """

    root: Path
    paths: Paths
    labels: Labels

    def __post_init__(self) -> None:
        if len(self.paths) != len(self.labels):
            raise ZsbirError(f"{len(self.paths)} paths but {len(self.labels)} labels under {self.root}")

    def __len__(self) -> int:
        return len(self.paths)

    def file(self, index: int) -> Path:
        """Return the full path of one record."""
        return self.root / self.paths[index]

    def where(self, keep: npt.NDArray[np.bool_], new_label: Labels | None = None) -> Records:
        """Return the records where `keep` (n,) is true, with labels mapped through `new_label` when it is given."""
        found = self.take(np.flatnonzero(keep))
        return found if new_label is None else replace(found, labels=new_label[found.labels])

    def take(self, rows: Labels) -> Records:
        """Return the records at the positions `rows` (int64), in that order."""
        return Records(self.root, self.paths.take(rows), self.labels[rows])


@dataclass(frozen=True, eq=False)
class Split:
    """One part of a dataset: its sketches, its photos and the classes both are labelled by.

    Attributes:
        sketches: The drawings (the queries, when the split is evaluated).
        photos: The photographs (the gallery, when the split is evaluated).
        classes: The class names; a label is a position in it.
    """

    sketches: Records
    photos: Records
    classes: tuple[str, ...]

    @classmethod
    def by_domain(cls, records: Callable[[Domain], Records], classes: tuple[str, ...]) -> Split:
        """Return the split of the records that a function gives for each domain."""
        return cls(records("sketch"), records("photo"), classes)

    def of(self, domain: Domain) -> Records:
        """Return the records of one domain."""
        return self.sketches if domain == "sketch" else self.photos


@dataclass(frozen=True, eq=False)
class Features:
    """What a backbone gives for a batch.

    Attributes:
        vector: (B, D) float, the global feature.
        tokens: (B, N, C) float, the patch features in row-major order, or None where the backbone has none.
        grid: The patch grid (h, w) with ``h * w == N``, or None.
        attention: (B, N) float, the class token's attention to each patch in the last block, where asked for.
    """

    vector: Tensor
    tokens: Tensor | None = None
    grid: tuple[int, int] | None = None
    attention: Tensor | None = None


@dataclass(eq=False)
class Batch:
    """One training step's images. Which fields are set depends on the method's sampling.

    Attributes:
        sketch: (B, 3, H, W) float32 in [0, 1].
        photo: (B', 3, H, W) float32 in [0, 1]: each sketch's positive (triplets), or drawn independently (mixed).
        negative: (B, 3, H, W) float32 in [0, 1]: a photo of another class (triplets), or None.
        label: (B,) int64, the class of each sketch.
        photo_label: (B',) int64, the class of each photo; equals `label` for triplets.
        negative_label: (B,) int64, or None.
        classes: The class names; a label is a position in it.
        photo_object: (B', H, W) bool, True on the object, where the dataset knows it; else None.
        negative_object: (B, H, W) bool, likewise.
        photo_keep: (B', N) bool, the stored mask of each photo, when masks were computed before; else None.
        negative_keep: (B, N) bool, likewise.
        files: The names of the files in the batch, by field.
    """

    sketch: Tensor
    photo: Tensor
    label: Tensor
    photo_label: Tensor
    negative: Tensor | None = None
    negative_label: Tensor | None = None
    classes: tuple[str, ...] = ()
    photo_object: Tensor | None = None
    negative_object: Tensor | None = None
    photo_keep: Tensor | None = None
    negative_keep: Tensor | None = None
    files: dict[str, list[str]] = field(default_factory=dict)

    def names(self, label: Tensor) -> list[str]:
        """Return the class name of each label in a (B,) tensor."""
        return [self.classes[i] for i in label.tolist()]

    def triplet(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the sketches, their photos and the negatives; raises ZsbirError for a batch without negatives."""
        if self.negative is None:
            raise ZsbirError("this method trains on triplets: its recipe needs sampling='triplet'")
        return self.sketch, self.photo, self.negative


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Vectors of images, with labels to score them by and a record of where they come from.

    Attributes:
        vectors: (n, D) float32, as the method gives them (not normalised unless it says so).
        labels: (n,) int64 positions in `classes`; -1 where the class is not known.
        classes: The class names.
        paths: ``n`` file names.
        domain: ``"sketch"`` or ``"photo"``.
        tokens: (n, N, C) float, patch features, only where a matcher asks for them; else None.
        meta: Where they come from: model spec, preprocessing, dataset and its manifest hash; JSON values.
    """

    vectors: Tensor
    labels: Labels
    classes: tuple[str, ...] = ()
    paths: Paths = field(default_factory=Paths)
    domain: Domain = "photo"
    tokens: Tensor | None = None
    meta: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.vectors)

    def take(self, rows: Labels) -> Embeddings:
        """Return the embeddings at the positions `rows` (int64), in that order."""
        import torch

        where = torch.from_numpy(rows)
        return replace(
            self,
            vectors=self.vectors[where.to(self.vectors.device)],
            labels=np.asarray(self.labels)[rows],
            paths=self.paths.take(rows) if len(self.paths) else self.paths,
            tokens=None if self.tokens is None else self.tokens[where.to(self.tokens.device)],
        )

    @classmethod
    def join(cls, parts: Sequence[Embeddings]) -> Embeddings:
        """Return the embeddings of all `parts`, with paths and tokens if all have them, and the rest of the first."""
        import torch

        tokens = [part.tokens for part in parts if part.tokens is not None]
        known = all(len(part.paths) == len(part) for part in parts)
        return replace(
            parts[0],
            vectors=torch.cat([part.vectors for part in parts]),
            labels=np.concatenate([part.labels for part in parts]),
            paths=Paths.join(part.paths for part in parts) if known else Paths(),
            tokens=torch.cat(tokens) if len(tokens) == len(parts) else None,
        )
